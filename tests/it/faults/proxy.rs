//! A proxy in front of PostgreSQL that understands enough of its protocol to break a chosen
//! COMMIT.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// When the connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees the COMMIT.
    Before,
    /// The server commits, and its answer is lost.
    After,
}

pub struct Proxy {
    port: u16,
    plan: Arc<Mutex<Option<(u32, Cut)>>>,
}

impl Proxy {
    /// In front of the server that a URL names.
    pub async fn to(url: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (server, plan) = (address(url).to_owned(), Arc::new(Mutex::new(None)));
        let proxy = Proxy { port, plan: plan.clone() };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (server, plan) = (server.clone(), plan.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    drop(relay(client, server, plan).await);
                });
            }
        });
        proxy
    }

    /// The same database through this proxy.
    pub fn url(&self, url: &str) -> String {
        url.replace(address(url), &format!("127.0.0.1:{}", self.port))
    }

    /// Breaks the nth COMMIT from now, from 1.
    pub fn cut(&self, nth: u32, how: Cut) {
        *self.plan.lock().unwrap() = Some((nth, how));
    }

    /// Whether it has happened.
    pub fn has_cut(&self) -> bool {
        self.plan.lock().unwrap().is_none()
    }
}

fn address(url: &str) -> &str {
    url.split('@').nth(1).unwrap().split('/').next().unwrap()
}

/// Whether this COMMIT is the one.
fn due(plan: &Mutex<Option<(u32, Cut)>>) -> Option<Cut> {
    let mut plan = plan.lock().unwrap();
    let (left, how) = plan.as_mut()?;
    *left -= 1;
    let how = (*left == 0).then_some(*how)?;
    *plan = None;
    Some(how)
}

async fn relay(
    client: TcpStream,
    server: TcpStream,
    plan: Arc<Mutex<Option<(u32, Cut)>>>,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (muted, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (is_muted, has_answered) = (muted.clone(), answered.clone());
    let down = tokio::spawn(async move {
        let mut buffer = [0; 16 * 1024];
        loop {
            match from_server.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) if is_muted.load(Ordering::SeqCst) => has_answered.notify_one(),
                Ok(read) => drop(to_client.write_all(&buffer[..read]).await),
            }
        }
    });
    let result = async {
        // What opens a connection has no type.
        let start = frame(&mut from_client, 0).await?;
        to_server.write_all(&start).await?;
        loop {
            let frame = frame(&mut from_client, 1).await?;
            let cut = if frame.ends_with(b"COMMIT\0") { due(&plan) } else { None };
            match cut {
                None => to_server.write_all(&frame).await?,
                Some(Cut::Before) => return Ok(()),
                Some(Cut::After) => {
                    muted.store(true, Ordering::SeqCst);
                    to_server.write_all(&frame).await?;
                    answered.notified().await;
                    return Ok(());
                }
            }
        }
    }
    .await;
    down.abort();
    result
}

/// A message: a type of that many bytes, then its length, itself included.
async fn frame(from: &mut OwnedReadHalf, kind: usize) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; kind + 4];
    from.read_exact(&mut frame).await?;
    let length = u32::from_be_bytes(frame[kind..].try_into().unwrap()) as usize;
    frame.resize(kind + length, 0);
    from.read_exact(&mut frame[kind + 4..]).await?;
    Ok(frame)
}
