//! `exportgate demo --replicas N`: gateways that share one engine, and what holds while one of them, and then the engine, is
//! killed. Each claim stands beside the number that was measured.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::directory::Directory;
use super::load::{Arrivals, GatewayDoor, Greedy, on_record, one_question};
use super::process::{EngineProgram, FleetSettings, OwnProcess};
use super::{ORG, VERSION};
use crate::cli::{CommandError, signals};
use crate::error_text::BoxError;
use crate::fake::{Fake, Settings};
use crate::shutdown::Shutdown;

/// Clients of the first step.
const CLIENTS: usize = 300;
/// Requests that the demo's Snyk allows in a second.
const PER_SECOND: usize = 60;
/// Time that Snyk takes to answer the question of all.
const ANSWER: Duration = Duration::from_millis(500);
/// Length of a step under load: the time until something is killed in it, and the time after that.
const STEP: Duration = UNTIL_KILL.saturating_add(AFTER);
const UNTIL_KILL: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(3);
/// Looks at a gateway until it is a member, each after a pause.
const LOOKS: usize = 300;
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(replicas: usize, is_once: bool) -> Result<(), CommandError> {
    let failed = |error: BoxError| CommandError::Other("the demo failed", error);
    let (shutdown, hangup) = (Shutdown::new(), Arc::new(Notify::new()));
    // Engine and gateways live through the end of a terminal.
    signals::receive(&shutdown, Some(Arc::clone(&hangup))).map_err(|error| failed(error.into()))?;
    let directory = Directory::create().map_err(|error| failed(error.into()))?;
    let engine = EngineProgram::find(&directory.0)?;
    let story = async {
        let mut demo = FleetDemo::start(engine, replicas).await?;
        let all_held = Box::pin(demo.tell()).await?;
        if !is_once {
            demo.invite()?;
            shutdown.begun().await;
        }
        Ok(all_held)
    };
    let all_held = tokio::select! {
        told = story => told.map_err(failed)?,
        () = shutdown.begun() => true,
        () = hangup.notified() => true,
    };
    if all_held { Ok(()) } else { Err(CommandError::Refused) }
}

/// A fleet that runs.
struct FleetDemo {
    out: anstream::AutoStream<std::io::Stdout>,
    fake: Fake,
    engine: EngineProgram,
    engine_process: OwnProcess,
    gateways: Vec<OwnProcess>,
    doors: Vec<GatewayDoor>,
    all_held: bool,
}

impl FleetDemo {
    async fn start(engine: EngineProgram, replicas: usize) -> Result<Self, BoxError> {
        let fake = Fake::start(Settings::default()).await?;
        let mut settings = FleetSettings::new(&engine, replicas, PER_SECOND)?;
        settings.upstream(fake.url(), fake.ca_pem())?;
        let engine_process = engine.start().await?;
        let (mut gateways, mut doors) = (Vec::new(), Vec::new());
        for number in 1..=replicas {
            let (process, places) = settings.start(number).await?;
            gateways.push(process);
            doors.push(GatewayDoor::new(places)?);
        }
        let out = anstream::stdout();
        let mut demo = Self { out, fake, engine, engine_process, gateways, doors, all_held: true };
        demo.introduce()?;
        demo.wait_for_engine().await?;
        Ok(demo)
    }

    fn introduce(&mut self) -> std::io::Result<()> {
        let bold = anstyle::Style::new().bold();
        let count = self.doors.len();
        writeln!(self.out, "{bold}exportgate demo: {count} gateways, one engine{bold:#}")?;
        writeln!(self.out, "  engine     {}, on a Unix socket of the demo's own", self.engine.name())?;
        writeln!(self.out, "  fake Snyk  {}, which allows {PER_SECOND} requests a second", self.fake.url())?;
        for (at, door) in self.doors.iter().enumerate() {
            writeln!(self.out, "  gateway {}  {}   (status page {}/)", at + 1, door.root, door.admin)?;
        }
        self.out.flush()
    }

    /// Until every gateway that lives is a member with a place, and the engine answers it.
    async fn wait_for_engine(&self) -> Result<(), BoxError> {
        for door in self.doors.iter().take(self.gateways.len()) {
            let mut looks = 0;
            loop {
                let shared = door.shared().await?;
                if shared["state"] != "alone" && shared["place"].as_u64().unwrap_or_default() > 0 {
                    break;
                }
                looks += 1;
                if looks == LOOKS {
                    return Err(format!("{} does not reach the engine: {shared}", door.root).into());
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn tell(&mut self) -> Result<bool, BoxError> {
        self.share_an_answer().await?;
        self.share_a_budget().await?;
        if self.gateways.len() > 1 {
            self.kill_a_gateway().await?;
        }
        self.kill_the_engine().await?;
        let outcome = if self.all_held { "All of it held." } else { "NOT ALL OF IT HELD: see above." };
        writeln!(self.out, "\n{outcome}")?;
        Ok(self.all_held)
    }

    fn step(&mut self, title: &str) -> std::io::Result<()> {
        let bold = anstyle::Style::new().bold();
        writeln!(self.out, "\n{bold}{title}{bold:#}")?;
        self.out.flush()
    }

    fn claim(&mut self, holds: bool, text: &str) -> std::io::Result<()> {
        self.all_held &= holds;
        let verdict = if holds { "holds" } else { "DOES NOT HOLD" };
        writeln!(self.out, "  {text}: {verdict}")?;
        self.out.flush()
    }

    async fn share_an_answer(&mut self) -> Result<(), BoxError> {
        let title = format!("One question of {CLIENTS} clients, at all gateways at once");
        self.step(&title)?;
        let seen = one_question(&self.doors, CLIENTS, &self.fake, ANSWER).await;
        let is_one = seen.good == CLIENTS && seen.bodies == 1;
        let alike = if seen.bodies == 1 { "all alike" } else { "not all alike" };
        let text = format!("{} of {CLIENTS} have the export, {alike}", seen.good);
        self.claim(is_one, &text)?;
        let text = format!("Snyk was asked {} time(s) for all of them", seen.upstream);
        Ok(self.claim(seen.upstream == 1, &text)?)
    }

    async fn share_a_budget(&mut self) -> Result<(), BoxError> {
        self.step("One budget, under clients that ask for as much as they can")?;
        let before = on_record(&self.doors)?;
        let greedy = Greedy::new(&self.doors, &self.fake);
        greedy.ask_for(STEP).await;
        let tally = greedy.tally();
        let sent = less(&on_record(&self.doors)?, &before);
        let text = format!("{} requests to Snyk in {} s, by gateway {sent:?}", sum(&sent), STEP.as_secs());
        self.claim(sent.iter().all(|sent| *sent > 0), &text)?;
        let text = format!("{} answers, {} refused", sum(&tally.answered), tally.refused);
        self.claim(tally.refused == 0, &text)?;
        self.claim_the_limit()
    }

    fn claim_the_limit(&mut self) -> Result<(), BoxError> {
        let Arrivals { most, late } = Arrivals::of(&self.fake, &self.doors)?;
        if late > 0 {
            writeln!(
                self.out,
                "  this machine is busy: {late} requests took longer to Snyk than can be kept within, and are left out"
            )?;
        }
        let text = format!("Snyk got at most {most} of {PER_SECOND} in any second");
        Ok(self.claim(most <= PER_SECOND, &text)?)
    }

    async fn kill_a_gateway(&mut self) -> Result<(), BoxError> {
        let last = self.gateways.len();
        let title = format!("Gateway {last} is killed (kill -9)");
        self.step(&title)?;
        let greedy = Greedy::new(&self.doors, &self.fake);
        let (doors, gateways) = (&self.doors, &mut self.gateways);
        let kill = async {
            tokio::time::sleep(UNTIL_KILL).await;
            drop(gateways.pop());
            on_record(doors)
        };
        let ((), killed) = tokio::join!(greedy.ask_for(STEP), kill);
        let (killed, tally) = (killed?, greedy.tally());
        let sent = less(&on_record(&self.doors)?, &killed);
        let seconds = AFTER.as_secs();
        let text =
            format!("{} requests to Snyk in the {seconds} s after it, by gateway {sent:?}", sum(&sent));
        self.claim(sent.iter().take(last - 1).all(|sent| *sent > 0), &text)?;
        let text = format!("{} answers; {} refused", sum(&tally.answered), tally.refused);
        self.claim(tally.refused == 0, &text)?;
        writeln!(self.out, "  {} requests found it gone, and were sent again to another one", tally.broken)?;
        let records = killed.last().copied().unwrap_or_default();
        writeln!(self.out, "  its journal has {records} records of what it sent until then")?;
        self.claim_the_limit()
    }

    async fn kill_the_engine(&mut self) -> Result<(), BoxError> {
        self.step("The engine is killed (kill -9)")?;
        let greedy = Greedy::new(&self.doors, &self.fake);
        let (doors, engine) = (&self.doors, &mut self.engine_process);
        let kill = async {
            tokio::time::sleep(UNTIL_KILL).await;
            engine.kill();
            on_record(doors)
        };
        let ((), killed) = tokio::join!(greedy.ask_for(STEP), kill);
        let (killed, tally) = (killed?, greedy.tally());
        let sent = less(&on_record(&self.doors)?, &killed);
        let seconds = AFTER.as_secs();
        let text = format!(
            "{} requests to Snyk in the {seconds} s after it, from the gateways' own parts: {sent:?}",
            sum(&sent)
        );
        self.claim(sent.iter().take(self.gateways.len()).all(|sent| *sent > 0), &text)?;
        let text = format!("{} answers; {} refused", sum(&tally.answered), tally.refused);
        self.claim(tally.refused == 0, &text)?;
        self.engine_process = self.engine.start().await?;
        self.wait_for_engine().await?;
        writeln!(self.out, "  it is back, empty; the gateways are connected again")?;
        self.claim_the_limit()
    }

    fn invite(&mut self) -> Result<(), BoxError> {
        let (Some(door), export) = (self.doors.first(), uuid::Uuid::new_v4()) else { return Ok(()) };
        writeln!(self.out, "\nThe gateways that are left serve on; end them with Ctrl-C. Try:")?;
        writeln!(self.out, "  exportgate status --admin {}", door.admin)?;
        writeln!(self.out, "  curl -i '{}/orgs/{ORG}/export/{export}?{VERSION}'", door.root)?;
        Ok(self.out.flush()?)
    }
}

fn sum(counts: &[usize]) -> usize {
    counts.iter().sum()
}

fn less(after: &[usize], before: &[usize]) -> Vec<usize> {
    after.iter().zip(before).map(|(after, before)| after.saturating_sub(*before)).collect()
}
