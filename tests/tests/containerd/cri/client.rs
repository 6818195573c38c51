//! A client of the CRI: gRPC over containerd's socket.

use std::{path::Path, time::Duration};

use prost::Message;
use tokio::runtime::Runtime;
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// A guest may have a part in an answer.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
        let channel = {
            let _entered = runtime.enter();
            endpoint.connect_lazy()
        };
        Self { runtime, channel }
    }

    /// Calls a method of the runtime service.
    pub(super) fn ask<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.call(&format!("RuntimeService/{method}"), request)
    }

    /// Calls `SERVICE/METHOD`.
    pub(super) fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path: PathAndQuery = format!("/runtime.v1.{method}").parse().unwrap();
        let mut request = Request::new(request);
        request.set_timeout(PATIENCE);
        self.runtime.block_on(async {
            let mut service = Grpc::new(self.channel.clone());
            service.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            service.unary(request, path, codec).await.map(tonic::Response::into_inner)
        })
    }
}
