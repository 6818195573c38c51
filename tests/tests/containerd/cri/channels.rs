//! A client of the plugin's streaming server: websockets of the subprotocol `v4.channel.k8s.io`, where each message begins with the number of its
//! channel.

use std::{collections::BTreeMap, net::TcpStream, time::Duration};

use tungstenite::{
    Message, WebSocket,
    client::{ClientRequestBuilder, client},
};

/// A guest may have a part in what is awaited.
const PATIENCE: Duration = Duration::from_secs(300);
/// Channels of a command and of a container.
pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const STATUS: u8 = 3;
pub(super) const RESIZE: u8 = 4;
/// Channels of the first port.
pub(super) const DATA: u8 = 0;
pub(super) const ERROR: u8 = 1;

pub(super) struct Channels {
    socket: WebSocket<TcpStream>,
    heard: BTreeMap<u8, Vec<u8>>,
    open: bool,
}

impl Channels {
    #[track_caller]
    pub(super) fn open(url: &str) -> Self {
        let url = url.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(url.split_once('/').unwrap().0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = ClientRequestBuilder::new(format!("ws://{url}").parse().unwrap())
            .with_sub_protocol("v4.channel.k8s.io");
        let (socket, _) = client(request, stream).unwrap();
        Self { socket, heard: BTreeMap::new(), open: true }
    }

    #[track_caller]
    pub(super) fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = [&[channel], bytes].concat();
        self.socket.send(Message::Binary(message.into())).unwrap();
    }

    /// What has come so far in a channel.
    pub(super) fn heard(&self, channel: u8) -> &[u8] {
        self.heard.get(&channel).map_or(&[], Vec::as_slice)
    }

    pub(super) fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(self.heard(channel)).into_owned()
    }

    /// Reads until something is so, or the other side has ended.
    #[track_caller]
    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while self.open && !done(self) {
            match self.socket.read() {
                Ok(Message::Binary(message)) => {
                    if let Some((channel, bytes)) = message.split_first() {
                        self.heard.entry(*channel).or_default().extend_from_slice(bytes);
                    }
                }
                Ok(Message::Close(_)) => self.open = false,
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if error.kind() == std::io::ErrorKind::WouldBlock =>
                {
                    panic!("nothing comes: {:?}", self.heard)
                }
                Err(_) => self.open = false,
            }
        }
    }

    /// Waits for text in a channel.
    #[track_caller]
    pub(super) fn wait_for(&mut self, channel: u8, text: &str) {
        self.until(|all| all.text(channel).contains(text));
        assert!(self.text(channel).contains(text), "no {text:?}: {:?}", self.heard);
    }

    /// Waits for so many bytes in a channel.
    #[track_caller]
    pub(super) fn wait_for_bytes(&mut self, channel: u8, count: usize) {
        self.until(|all| all.heard(channel).len() >= count);
        assert!(self.heard(channel).len() >= count, "the other side has ended");
    }

    /// Waits for the other side's end.
    #[track_caller]
    pub(super) fn wait(&mut self) {
        self.until(|_| false);
    }
}
