//! A scripted provider on a real socket: it answers as it is told and remembers what it got.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use super::answer::Answer;
use super::answer::Step;
use super::world;

/// A request as it came over the wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case, in the order that they came in.
    pub(crate) headers: Vec<(String, String)>,
    /// The body without its transfer coding, as far as it has come.
    pub(crate) body: Vec<u8>,
    /// Whether all of the body is there.
    pub(crate) complete: bool,
}

impl Received {
    /// A header's first value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

type Script = dyn Fn(usize, &Received) -> Answer + Send + Sync;

struct Shared {
    script: Box<Script>,
    /// Whether the script sees a request with its body, or as soon as its head is there.
    whole: bool,
    requests: Mutex<Vec<Received>>,
    asked: AtomicUsize,
    /// Connections that were opened, and those that the peer closed while an answer was due.
    opened: AtomicUsize,
    ended: AtomicUsize,
    cancelled: AtomicUsize,
}

/// A scripted provider.
#[derive(Clone)]
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Upstream {
    /// Gives the same answer to every request.
    pub(crate) fn always(answer: Answer) -> Self {
        Self::with(move |_, _| answer.clone())
    }

    /// Gives the answers in turn, and the last one from then on.
    pub(crate) fn script(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers: Vec<Answer> = answers.into_iter().collect();
        Self::with(move |turn, _| answers[turn.min(answers.len() - 1)].clone())
    }

    /// Asks `script` for each answer, with the request's number from 0 and its head.
    pub(crate) fn with(
        script: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Box::new(script), false)
    }

    /// The same with whole requests: bodies, too.
    pub(crate) fn reading(
        script: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Box::new(script), true)
    }

    fn serve(script: Box<Script>, whole: bool) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script,
            whole,
            requests: Mutex::default(),
            asked: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
        });
        let server = Arc::clone(&shared);
        world().spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = server.opened.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&server);
                tokio::spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    let mut session = Session { stream, input: Vec::new(), connection, shared };
                    session.run().await;
                    session.shared.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { shared, address }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Everything that was asked so far.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.lock().clone()
    }

    /// What has come with its whole body; of a request on its way there is a head and no body yet.
    pub(crate) fn complete(&self) -> Vec<Received> {
        self.lock().iter().filter(|request| request.complete).cloned().collect()
    }

    /// The only request that there was.
    pub(crate) fn only_request(&self) -> Received {
        let requests = self.lock();
        assert_eq!(requests.len(), 1, "requests upstream: {requests:#?}");
        requests[0].clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Bytes of the last request's body that have come.
    pub(crate) fn received_bytes(&self) -> usize {
        self.lock().last().map_or(0, |request| request.body.len())
    }

    /// Connections that were ever opened.
    pub(crate) fn connections(&self) -> usize {
        self.shared.opened.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open_connections(&self) -> usize {
        self.connections() - self.shared.ended.load(Ordering::SeqCst)
    }

    /// Connections that the peer closed before it had its answer.
    pub(crate) fn cancelled(&self) -> usize {
        self.shared.cancelled.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Received>> {
        self.shared.requests.lock().unwrap()
    }
}

struct Session {
    stream: TcpStream,
    /// What was read and belongs to nobody yet.
    input: Vec<u8>,
    connection: usize,
    shared: Arc<Shared>,
}

/// The peer is gone, or the script says that the connection ends here.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Session {
    async fn run(&mut self) {
        while let Ok(head) = self.head().await {
            let turn = self.shared.asked.fetch_add(1, Ordering::SeqCst);
            let index = {
                let mut requests = self.shared.requests.lock().unwrap();
                requests.push(head.clone());
                requests.len() - 1
            };
            if self.shared.whole && self.body(index).await.is_err() {
                return;
            }
            let whole =
                self.shared.whole.then(|| self.shared.requests.lock().unwrap()[index].clone());
            let answer = (self.shared.script)(turn, whole.as_ref().unwrap_or(&head));
            let read_first = !answer.early && whole.is_none();
            if read_first && self.body(index).await.is_err() {
                return;
            }
            if self.answer(answer).await.is_err() {
                return;
            }
        }
    }

    async fn more(&mut self) -> Result<(), Over> {
        let mut buffer = vec![0; 64 << 10];
        let read = self.stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(Over);
        }
        self.input.extend_from_slice(buffer.get(..read).unwrap());
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.input, b"\r\n") {
                let line: Vec<u8> = self.input.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(line.get(..at).unwrap()).into_owned());
            }
            self.more().await?;
        }
    }

    async fn head(&mut self) -> Result<Received, Over> {
        let first = self.line().await?;
        let mut words = first.split(' ').map(str::to_owned);
        let mut head = Received {
            connection: self.connection,
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            ..Received::default()
        };
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(head);
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            head.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads the body of the request that was put down at `index`.
    async fn body(&mut self, index: usize) -> Result<(), Over> {
        let (length, chunked) = {
            let requests = self.shared.requests.lock().unwrap();
            let length = requests[index].header("content-length").map(|n| n.parse().unwrap());
            (length.unwrap_or(0), requests[index].header("transfer-encoding").is_some())
        };
        if chunked {
            loop {
                let size = self.line().await?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                self.take(index, size).await?;
                self.line().await?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.take(index, length).await?;
        }
        self.shared.requests.lock().unwrap()[index].complete = true;
        Ok(())
    }

    async fn take(&mut self, index: usize, mut left: usize) -> Result<(), Over> {
        while left > 0 {
            if self.input.is_empty() {
                self.more().await?;
            }
            let part: Vec<u8> = self.input.drain(..left.min(self.input.len())).collect();
            left -= part.len();
            self.shared.requests.lock().unwrap()[index].body.extend_from_slice(&part);
        }
        Ok(())
    }

    async fn answer(&mut self, answer: Answer) -> Result<(), Over> {
        for step in answer.steps {
            let done = self.step(step).await;
            if let Err(cancelled) = done {
                if cancelled {
                    self.shared.cancelled.fetch_add(1, Ordering::SeqCst);
                }
                return Err(Over);
            }
        }
        Ok(())
    }

    /// One step; the error says whether the peer left.
    async fn step(&mut self, step: Step) -> Result<(), bool> {
        match step {
            Step::Write(bytes) => self.stream.write_all(&bytes).await.map_err(|_| true),
            Step::Pause(time) => self.unless_gone(tokio::time::sleep(time)).await,
            Step::Wait(gate) => {
                let permit = self.unless_gone(gate.acquire()).await?;
                permit.unwrap().forget();
                Ok(())
            }
            Step::Stall => self.unless_gone(std::future::pending()).await,
            Step::Flood(piece, times) => {
                for _ in 0..times {
                    self.stream.write_all(&piece).await.map_err(|_| true)?;
                }
                Ok(())
            }
            Step::Echo => self.echo().await.map_err(|_| false),
            Step::Close => {
                // Without reading what is left, a close would be a reset.
                let _ = self.stream.shutdown().await;
                Err(false)
            }
            Step::Reset => {
                let socket = socket2::SockRef::from(&self.stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                Err(false)
            }
        }
    }

    async fn echo(&mut self) -> Result<(), Over> {
        loop {
            let bytes = std::mem::take(&mut self.input);
            self.stream.write_all(&bytes).await?;
            self.more().await?;
        }
    }

    /// Waits for `work`; `Err(true)` when the peer closes before.
    async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Result<T, bool> {
        let gone = async {
            let mut byte = [0];
            // Bytes of a next request are not a goodbye.
            if let Ok(1..) = self.stream.peek(&mut byte).await {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = gone => Err(true),
        }
    }
}
