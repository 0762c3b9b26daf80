//! The commands that print. stdout carries results only; everything else goes to stderr.

pub mod observe;
pub mod output;
pub mod status;
