//! The hugetlb controller.

use super::setting::Setting;
use crate::{error::Error, spec::HugepageLimit};

pub(super) fn settings(limits: &[HugepageLimit], all: &mut Vec<Setting>) -> Result<(), Error> {
    for limit in limits {
        let size = &limit.page_size;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::invalid(
                "linux.resources.hugepageLimits.pageSize",
                size,
                "a size such as 2MB is wanted",
            ));
        }
        let value = if limit.limit < 0 { "max".to_owned() } else { limit.limit.to_string() };
        let file = format!("hugetlb.{size}.max").into();
        all.push(Setting { controller: "hugetlb", file, value });
    }
    Ok(())
}
