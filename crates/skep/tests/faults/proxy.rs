//! Networks that fail: what a connection passes through between a hub and a database.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// Passes on what is sent to a port of this machine and back, unless it is told otherwise.
pub(crate) struct Proxy {
    /// Its own port on 127.0.0.1.
    pub(crate) port: u16,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

struct Shared {
    target: AtomicU16,
    flow: watch::Sender<Flow>,
}

#[derive(Clone, Copy)]
struct Flow {
    /// Connections of an earlier one have been cut.
    generation: u64,
    /// Whether anything gets through. If not, connections stay as they are, and nobody is told.
    is_open: bool,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let flow = watch::Sender::new(Flow { generation: 0, is_open: true });
        let shared = Arc::new(Shared { target: AtomicU16::new(target), flow });
        let (port, of_listener) = (listener.local_addr().unwrap().port(), Arc::clone(&shared));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new(); // they end with this task
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(Arc::clone(&of_listener).connect(client));
                while connections.try_join_next().is_some() {}
            }
        });
        Proxy { port, shared, _accepting: accepting }
    }

    /// End all connections that there are.
    pub(crate) fn cut(&self) {
        self.shared.flow.send_modify(|flow| flow.generation += 1);
    }

    /// Whether anything gets through. What was sent meanwhile does when it is open again.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.shared.flow.send_modify(|flow| flow.is_open = is_open);
    }

    /// New connections lead to this port.
    pub(crate) fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
    }
}

impl Shared {
    /// Lead a client to the server. When this returns, the connection is cut on both sides.
    async fn connect(self: Arc<Self>, client: TcpStream) {
        let mut flow = self.flow.subscribe();
        let generation = flow.borrow_and_update().generation;
        let lead = async {
            self.opened().await;
            let Ok(server) = TcpStream::connect(("127.0.0.1", self.target.load(Ordering::SeqCst))).await else {
                return;
            };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let _ = tokio::select! {
                ended = self.pass_on(from_client, to_server) => ended,
                ended = self.pass_on(from_server, to_client) => ended,
            };
        };
        tokio::select! {
            () = lead => {}
            _ = flow.wait_for(|flow| flow.generation != generation) => {}
        }
    }

    async fn pass_on(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let count = from.read(&mut bytes).await?;
            if count == 0 {
                return Ok(());
            }
            self.opened().await;
            to.write_all(&bytes[..count]).await?;
        }
    }

    async fn opened(&self) {
        let _ = self.flow.subscribe().wait_for(|flow| flow.is_open).await;
    }
}
