//! A TCP proxy that breaks connections on purpose: cut mid-frame, freeze, slow down, refuse.
//!
//! Transparent otherwise. It runs in a thread of its own, so a busy test does not slow it and dropping it ends it.

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One proxy in front of one address.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    control: Arc<Control>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Control {
    target: SocketAddr,
    refuse: watch::Sender<bool>,
    listening: AtomicBool,
    frozen: watch::Sender<bool>,
    /// Every change resets all connections.
    cuts: watch::Sender<u64>,
    delay_micros: AtomicU64,
    /// 0: no limit.
    bytes_per_second: AtomicU64,
    up: Counter,
    down: Counter,
    /// What may still pass in both directions together; negative: no limit.
    both_left: AtomicI64,
    connections: AtomicU64,
}

#[derive(Debug)]
struct Counter {
    bytes: AtomicU64,
    /// What may still pass before a cut; negative: no limit.
    left: AtomicI64,
}

impl Counter {
    fn new() -> Counter {
        Counter { bytes: AtomicU64::new(0), left: AtomicI64::new(-1) }
    }
}

impl Proxy {
    /// Starts a proxy to `target` on a free port of 127.0.0.1.
    pub async fn to(target: SocketAddr) -> Proxy {
        let control = Arc::new(Control {
            target,
            refuse: watch::channel(false).0,
            listening: AtomicBool::new(true),
            frozen: watch::channel(false).0,
            cuts: watch::channel(0).0,
            delay_micros: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            up: Counter::new(),
            down: Counter::new(),
            both_left: AtomicI64::new(-1),
            connections: AtomicU64::new(0),
        });
        let (addr, listener) = (0..20)
            .map(|_| SocketAddr::from(([127, 0, 0, 1], crate::free_port())))
            .find_map(|addr| Some((addr, listen(addr).ok()?)))
            .expect("one of twenty free ports stays free for a moment");
        let stop = CancellationToken::new();
        let (shared, stopped) = (control.clone(), stop.clone());
        std::thread::Builder::new()
            .name("testbed-proxy".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime can be built");
                runtime.block_on(stopped.run_until_cancelled(serve(addr, listener, shared)));
            })
            .expect("a thread can be started");
        Proxy { addr, control, stop }
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Resets all open connections on both sides (RST, not FIN). New ones are served.
    pub fn cut(&self) {
        self.control.cut();
    }

    /// Resets all connections once so many more bytes have passed in both directions together: in the middle of a
    /// frame, as a rule. Works once.
    pub fn cut_after(&self, bytes: u64) {
        self.control.both_left.store(bytes.cast_signed(), Ordering::SeqCst);
    }

    /// Like [`Proxy::cut_after`], counting only what clients send.
    pub fn cut_after_up(&self, bytes: u64) {
        self.control.up.left.store(bytes.cast_signed(), Ordering::SeqCst);
    }

    /// Like [`Proxy::cut_after`], counting only what the server sends.
    pub fn cut_after_down(&self, bytes: u64) {
        self.control.down.left.store(bytes.cast_signed(), Ordering::SeqCst);
    }

    /// From now on nothing passes, in either direction, and nothing is closed; new connections are taken and stay mute.
    pub fn blackhole(&self) {
        self.control.frozen.send_replace(true);
    }

    /// Resets what is open and refuses new connections (the port is closed).
    pub fn refuse(&self) {
        self.control.refuse.send_replace(true);
        self.control.cut();
        self.wait_listening(false);
    }

    /// Undoes [`Proxy::blackhole`], [`Proxy::refuse`], [`Proxy::delay`], [`Proxy::throttle`] and pending cuts. What was
    /// held back by a black hole passes now.
    pub fn restore(&self) {
        self.control.delay_micros.store(0, Ordering::SeqCst);
        self.control.bytes_per_second.store(0, Ordering::SeqCst);
        for left in [&self.control.both_left, &self.control.up.left, &self.control.down.left] {
            left.store(-1, Ordering::SeqCst);
        }
        self.control.frozen.send_replace(false);
        self.control.refuse.send_replace(false);
        self.wait_listening(true);
    }

    /// Holds each chunk (at most 16 kB) back for so long, in each direction.
    pub fn delay(&self, time: Duration) {
        self.control.delay_micros.store(time.as_micros().try_into().unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Lets about so many bytes a second pass, per direction and connection; 0 lifts it.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.control.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Bytes passed from clients to the server.
    pub fn bytes_up(&self) -> u64 {
        self.control.up.bytes.load(Ordering::SeqCst)
    }

    /// Bytes passed from the server to clients.
    pub fn bytes_down(&self) -> u64 {
        self.control.down.bytes.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.control.connections.load(Ordering::SeqCst)
    }

    fn wait_listening(&self, wanted: bool) {
        for _ in 0..2000 {
            if self.control.listening.load(Ordering::SeqCst) == wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the proxy did not {} its port within 2 s", if wanted { "open" } else { "close" });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.cut();
        self.stop.cancel();
    }
}

impl Control {
    fn cut(&self) {
        self.cuts.send_modify(|generation| *generation += 1);
    }

    /// How many of `wanted` bytes may pass now; 0: cut.
    fn allowed(&self, counter: &Counter, wanted: usize) -> usize {
        [&counter.left, &self.both_left].into_iter().fold(wanted, |wanted, left| {
            let left = left.load(Ordering::SeqCst);
            if left < 0 { wanted } else { wanted.min(usize::try_from(left).unwrap_or(usize::MAX)) }
        })
    }

    fn spend(&self, counter: &Counter, passed: usize) {
        counter.bytes.fetch_add(passed as u64, Ordering::SeqCst);
        for left in [&counter.left, &self.both_left] {
            let rest = |left: i64| (left >= 0).then(|| left.saturating_sub(passed as i64).max(0));
            let _ = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, rest);
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

async fn serve(addr: SocketAddr, first: std::net::TcpListener, control: Arc<Control>) {
    let mut listener = TcpListener::from_std(first).ok();
    let mut refuse = control.refuse.subscribe();
    loop {
        let refused = *refuse.borrow_and_update();
        if refused {
            listener = None;
        } else if listener.is_none() {
            listener = listen(addr).and_then(TcpListener::from_std).ok();
        }
        control.listening.store(listener.is_some(), Ordering::SeqCst);
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None if refused => std::future::pending().await,
                None => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(io::ErrorKind::AddrInUse.into())
                }
            }
        };
        tokio::select! {
            _ = refuse.changed() => {}
            accepted = accepted => if let Ok((client, _)) = accepted {
                control.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection(client, control.clone()));
            }
        }
    }
}

async fn connection(mut client: TcpStream, control: Arc<Control>) {
    let mut cuts = control.cuts.subscribe();
    cuts.mark_unchanged();
    let mut frozen = control.frozen.subscribe();
    let relay = async {
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let Ok(mut server) = TcpStream::connect(control.target).await else { return Err(None) };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let outcome = {
            let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
            let up = pump(from_client, to_server, &control.up, &control);
            let down = pump(from_server, to_client, &control.down, &control);
            tokio::select! {
                both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
                _ = cuts.changed() => Err(io::ErrorKind::ConnectionReset.into()),
            }
        };
        outcome.map_err(|_| Some(server))
    };
    if let Err(server) = relay.await {
        // Linger 0: close sends RST and throws away what is unsent.
        for stream in [Some(client), server].into_iter().flatten() {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, counter: &Counter, control: &Control) -> io::Result<()> {
    let mut frozen = control.frozen.subscribe();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let rate = control.bytes_per_second.load(Ordering::SeqCst);
        let chunk = if rate == 0 { buffer.len() } else { (rate as usize / 20).clamp(1, buffer.len()) };
        let read = from.read(buffer.get_mut(..chunk).expect("clamped to its length")).await?;
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let rate = control.bytes_per_second.load(Ordering::SeqCst);
        if rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
        }
        let delay = control.delay_micros.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
            let _ = frozen.wait_for(|frozen| !frozen).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        let allowed = control.allowed(counter, read);
        // Counted first: who has seen the bytes also sees the count.
        control.spend(counter, allowed);
        to.write_all(buffer.get(..allowed).expect("no more than was read")).await?;
        if control.allowed(counter, 1) == 0 {
            // Let the last bytes leave before the reset throws away what is unsent.
            tokio::time::sleep(Duration::from_millis(5)).await;
            for left in [&control.both_left, &control.up.left, &control.down.left] {
                let _ = left.compare_exchange(0, -1, Ordering::SeqCst, Ordering::SeqCst);
            }
            control.cut();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}
