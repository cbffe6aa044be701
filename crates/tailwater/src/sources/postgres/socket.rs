//! A connected socket of whatever kind, and how one is dialled: name look-up, TCP or Unix socket, `SSLRequest`, TLS.

use super::config::SslMode;
use super::failure::Error;
use super::target::{Endpoint, Target};
use crate::net::tls;
use bytes::BytesMut;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// TCP, a Unix socket, or TLS over TCP.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// What SCRAM binds itself to; `None` without TLS.
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        let Socket::Tls(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        session.peer_certificates().and_then(|chain| chain.first()).and_then(|cert| tls::server_end_point(cert))
    }

    /// A second handle, to end the connection from outside; `None` if the system has no more handles.
    pub fn closer(&self) -> Option<socket2::Socket> {
        let clone = match self {
            Socket::Tcp(stream) => socket2::SockRef::from(stream).try_clone(),
            Socket::Unix(stream) => socket2::SockRef::from(stream).try_clone(),
            Socket::Tls(stream) => socket2::SockRef::from(stream.get_ref().0).try_clone(),
        };
        clone.ok()
    }
}

/// Whether this attempt asks for TLS; `allow` and `prefer` make two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Plain,
    /// TLS if the server has it.
    TlsIfOffered,
    TlsRequired,
}

/// The attempts of an sslmode, in order; the next one is made only when the server refused the one before
/// (libpq, "SSL Mode Descriptions"). A Unix socket needs none.
pub fn attempts(sslmode: SslMode, endpoint: &Endpoint) -> &'static [Attempt] {
    match (endpoint, sslmode) {
        (Endpoint::Unix(_), _) | (_, SslMode::Disable) => &[Attempt::Plain],
        (_, SslMode::Allow) => &[Attempt::Plain, Attempt::TlsRequired],
        (_, SslMode::Prefer) => &[Attempt::TlsIfOffered, Attempt::Plain],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Attempt::TlsRequired],
    }
}

/// Connects to one endpoint; every address of a name is tried.
pub async fn dial(target: &Target, endpoint: &Endpoint, attempt: Attempt) -> Result<Socket, Error> {
    let (host, port) = match endpoint {
        Endpoint::Unix(path) => {
            let stream =
                UnixStream::connect(path).await.map_err(|error| Error::Connect(endpoint.to_string(), error))?;
            return Ok(Socket::Unix(stream));
        }
        Endpoint::Tcp { host, port } => (host, *port),
    };
    let stream = connect_tcp(host, port).await.map_err(|error| Error::Connect(endpoint.to_string(), error))?;
    if attempt == Attempt::Plain {
        return Ok(Socket::Tcp(stream));
    }
    upgrade(target, host, attempt, stream).await
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let keepalive = socket2::TcpKeepalive::new()
                    .with_time(Duration::from_secs(30))
                    .with_interval(Duration::from_secs(5))
                    .with_retries(3);
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// `SSLRequest` (protocol, "SSL Session Encryption"): one byte answers, `S` or `N`.
async fn upgrade(target: &Target, host: &str, attempt: Attempt, mut stream: TcpStream) -> Result<Socket, Error> {
    let mut request = BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'S' => Ok(Socket::Tls(Box::new(tls::connect(&target.tls, host, stream).await?))),
        b'N' if attempt == Attempt::TlsIfOffered => Ok(Socket::Tcp(stream)),
        b'N' => Err(Error::NoTls),
        // Anything else, also an error message, comes before encryption and may be anybody's: it is not read further.
        _ => Err(Error::Protocol("the server did not answer the request for TLS".into())),
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
