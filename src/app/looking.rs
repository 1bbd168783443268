//! The thread on which the gateway is looked after: it has a runtime of its own, so that a probe does not wait behind
//! the requests of clients, however many these are.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{LAST_LOOKS, StartError};
use crate::admin::Admin;
use crate::clock::Clock;
use crate::listener::{Address, BindError, Counters, Limits, Listener, Reserve, Settings};
use crate::shutdown::Shutdown;
use crate::transport::ServerTls;

/// The admin listener with its socket open, on its thread.
#[derive(Debug)]
pub(super) struct Looking {
    pub(super) addresses: Vec<Address>,
    pub(super) counters: Arc<Counters>,
    pub(super) limits: Limits,
    begin: oneshot::Sender<(Arc<Admin>, Clock)>,
    last: Shutdown,
    ended: oneshot::Receiver<()>,
}

type Bound = Result<(Vec<Address>, Arc<Counters>, Limits), BindError>;

impl Looking {
    /// Starts the thread and takes the address there.
    ///
    /// # Errors
    /// When the address is not to be had, or the thread.
    pub(super) async fn bind(settings: Settings, tls: Option<ServerTls>) -> Result<Self, StartError> {
        let (told, bound) = oneshot::channel::<Bound>();
        let (begin, asked) = oneshot::channel();
        let (done, ended) = oneshot::channel::<()>();
        let last = Shutdown::new();
        let stop = last.clone();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let serving = async move {
            let listener = match Listener::bind(settings, tls).await {
                Ok(listener) => listener,
                Err(error) => return drop(told.send(Err(error))),
            };
            let _ = told.send(Ok((listener.addresses(), listener.counters(), listener.limits())));
            // An app that is never run drops the other end.
            let Ok((admin, clock)): Result<(Arc<Admin>, Clock), _> = asked.await else { return };
            let looking = Arc::clone(&admin);
            stop.spawn_helper(async move { looking.sample_always().await });
            let probed = Arc::clone(&admin);
            // Whoever takes all the connections must not make the gateway look dead.
            let reserve = Reserve(Arc::new(move |request| probed.respond_to_probe(request)));
            let listener = listener.with_reserve(reserve);
            let respond = move |request, peer| Arc::clone(&admin).respond(request, peer);
            listener.serve(respond, &clock, &stop).await;
            if !stop.finished(LAST_LOOKS).await {
                stop.end();
            }
            stop.release();
        };
        let thread = std::thread::Builder::new().name("admin".to_owned());
        let run = move || {
            runtime.block_on(serving);
            // What waits for a disk is not waited for.
            runtime.shutdown_background();
            drop(done);
        };
        thread.spawn(run).map_err(StartError::Thread)?;
        let (addresses, counters, limits) =
            bound.await.map_err(|_| StartError::Thread(std::io::ErrorKind::Other.into()))??;
        Ok(Self { addresses, counters, limits, begin, last, ended })
    }

    /// Serves from now on.
    pub(super) fn begin(self, admin: Arc<Admin>, clock: Clock) -> LastLooks {
        let _ = self.begin.send((admin, clock));
        LastLooks { last: self.last, ended: self.ended }
    }
}

/// The end of looking after the gateway.
#[derive(Debug)]
pub(super) struct LastLooks {
    last: Shutdown,
    ended: oneshot::Receiver<()>,
}

impl LastLooks {
    /// Lets those who are being answered have their answers, and ends.
    pub(super) async fn end(self) {
        self.last.begin();
        // It is dropped by the thread on its way out.
        drop(self.ended.await);
    }
}
