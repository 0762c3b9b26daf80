//! Reads a page of an HTTP server on the loopback of a network namespace: metrics, health, readiness.
//!
//! Knows no page's content.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Status and body of a path, requested from within a network namespace.
pub fn get(netns: &Netns, at: SocketAddr, path: &str) -> Result<(u16, String)> {
    let text = netns.run(|| -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status line")?.parse()?;
    Ok((status, body.to_owned()))
}
