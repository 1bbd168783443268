//! The thread of the admin listener. It has a runtime of its own, so that a probe never waits behind requests of clients.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{LAST_ADMIN_ANSWERS, StartError};
use crate::admin::Admin;
use crate::clock::Clock;
use crate::listener::{Address, BindError, Counters, Limits, Listener, Reserve, Settings};
use crate::shutdown::Shutdown;
use crate::transport::ServerTls;

/// The admin listener on its thread, with its socket open.
#[derive(Debug)]
pub(super) struct AdminThread {
    pub(super) addresses: Vec<Address>,
    pub(super) counters: Arc<Counters>,
    pub(super) limits: Limits,
    begin: oneshot::Sender<(Arc<Admin>, Clock)>,
    last: Shutdown,
    ended: oneshot::Receiver<()>,
}

type Bound = Result<(Vec<Address>, Arc<Counters>, Limits), BindError>;

impl AdminThread {
    /// Starts the thread and binds the address there.
    pub(super) async fn bind(settings: Settings, tls: Option<ServerTls>) -> Result<Self, StartError> {
        let (report, bound) = oneshot::channel::<Bound>();
        let (begin, start) = oneshot::channel();
        let (done, ended) = oneshot::channel::<()>();
        let last = Shutdown::new();
        let stop = last.clone();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let serving = async move {
            let listener = match Listener::bind(settings, tls).await {
                Ok(listener) => listener,
                Err(error) => return drop(report.send(Err(error))),
            };
            let _ = report.send(Ok((listener.addresses(), listener.counters(), listener.limits())));
            // An app that is never run drops the other end.
            let Ok((admin, clock)): Result<(Arc<Admin>, Clock), _> = start.await else { return };
            let sampler = Arc::clone(&admin);
            stop.spawn_helper(async move { sampler.sample_always().await });
            let probed = Arc::clone(&admin);
            // Whoever takes all the connections must not make the gateway look dead.
            let reserve = Reserve(Arc::new(move |request| probed.respond_to_probe(request)));
            let listener = listener.with_reserve(reserve);
            let respond = move |request, peer| Arc::clone(&admin).respond(request, peer);
            listener.serve(respond, &clock, &stop).await;
            if !stop.finished(LAST_ADMIN_ANSWERS).await {
                stop.end();
            }
            stop.release();
        };
        let thread = std::thread::Builder::new().name("admin".to_owned());
        let run = move || {
            runtime.block_on(serving);
            // A task that waits for a disk must not delay the end.
            runtime.shutdown_background();
            drop(done);
        };
        thread.spawn(run).map_err(StartError::Thread)?;
        let (addresses, counters, limits) =
            bound.await.map_err(|_| StartError::Thread(std::io::ErrorKind::Other.into()))??;
        Ok(Self { addresses, counters, limits, begin, last, ended })
    }

    /// Begins to serve. The future ends it, and waits for its last answers.
    pub(super) fn begin(self, admin: Arc<Admin>, clock: Clock) -> impl Future<Output = ()> {
        let Self { begin, last, ended, .. } = self;
        let _ = begin.send((admin, clock));
        async move {
            last.begin();
            // The thread drops the other end when it ends.
            drop(ended.await);
        }
    }
}
