//! `bulkhead bench isolation`: one probe set in every isolation, side by side.

mod canary;
mod compare;
mod trace;
