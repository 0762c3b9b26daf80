//! The loaded programs and the host give the same verdict on many random frames, under many tables.
//!
//! Half of the frames are mutations of the corpus, half are built from random fields. The seed is that of the property
//! tests (`PROPTEST_RNG_SEED`), or the time. A disagreement prints seed, tables and frame, and `cargo xtask frames`
//! takes the frame.

mod generate;
mod variant;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_common::flow::Direction;
use agent_common::reason::DropReason;
use testbed::engine::Engine;

use super::{corpus, direction, engine};
use generate::{Dice, generated, mutated};
use variant::Variant;

/// Frames of one run.
const FRAMES: usize = 200_000;
/// Fewer frames than this are no proof, however slow the machine is.
const LEAST: usize = 100_000;
/// Frames under the same tables.
const FRAMES_OF_A_VARIANT: usize = 2_000;
/// Frames that share connections.
const FRAMES_OF_A_TRAIN: usize = 250;
/// A run ends after this time.
const LONGEST: Duration = Duration::from_secs(60);

/// What a run has seen.
#[derive(Default)]
struct Seen {
    frames: usize,
    /// Frames that the kernel makes no socket buffer of.
    refused: usize,
    verdicts: BTreeMap<(Option<DropReason>, bool), usize>,
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn program_and_host_agree_on_random_frames() {
    let seed = seed();
    let seen = run(seed);
    println!("seed {seed}: {} frames, {} refused, {:?}", seen.frames, seen.refused, seen.verdicts);
    assert!(seen.frames - seen.refused >= LEAST, "{} frames, {} refused", seen.frames, seen.refused);
    let reasons = DropReason::ALL.iter().filter(|reason| seen.verdicts.contains_key(&(Some(**reason), false)));
    let passed: usize = seen.verdicts.iter().filter(|((reason, _), _)| reason.is_none()).map(|(_, count)| count).sum();
    assert!(reasons.count() >= 20 && passed > seen.frames / 10, "not enough of each: {:?}", seen.verdicts);
}

/// Judges frames until there are enough, or the time is over.
fn run(seed: u64) -> Seen {
    let started = Instant::now();
    let (mut engine, mut dice) = (engine(), Dice::new(seed));
    let (mut seen, mut variant) = (Seen::default(), Variant::default());
    while seen.frames < FRAMES && started.elapsed() < LONGEST {
        if seen.frames.is_multiple_of(FRAMES_OF_A_VARIANT) {
            variant = Variant::random(&mut dice);
            let mut tables = variant.tables();
            // A claim of its own: entries of earlier variants stay in the kernel's table.
            tables.endpoints.values_mut().for_each(|entry| entry.cookie += (seen.frames as u32) << 10);
            engine.refill(tables).expect("tables can be written");
        } else if seen.frames.is_multiple_of(FRAMES_OF_A_TRAIN) {
            engine.forget().expect("connections can be removed");
        }
        let (way, frame) = random_frame(&mut dice);
        seen.frames += 1;
        match compare(&engine, way, &frame) {
            Ok(Some(verdict)) => *seen.verdicts.entry(verdict).or_default() += 1,
            Ok(None) => seen.refused += 1,
            Err(difference) => {
                panic!("seed {seed}, frame {}: {difference}\n{variant:?}\n{way:?} {}", seen.frames, hex(&frame))
            }
        }
    }
    seen
}

fn random_frame(dice: &mut Dice) -> (Direction, Vec<u8>) {
    if dice.one_in(2) {
        return generated(dice);
    }
    let case = &corpus()[dice.below(corpus().len())];
    (direction(case), mutated(&case.frame, dice))
}

/// The verdict of both: the reason, and whether the frame was audited. `None`: the kernel does not run the frame.
fn compare(engine: &Engine, way: Direction, frame: &[u8]) -> Result<Option<(Option<DropReason>, bool)>, String> {
    let tables = engine.tables();
    let remembered = tables.replies.borrow().clone();
    let host = engine.host(way, frame);
    let Some(ran) = engine.judge(way, frame, host.reason()).map_err(|error| format!("{error:#}, host {host:?}"))?
    else {
        // The kernel did not run the frame, so the host must not remember it.
        *tables.replies.borrow_mut() = remembered;
        return Ok(None);
    };
    if !ran.agrees(&host) {
        return Err(format!("the kernel says {ran:?}, the host {host:?}"));
    }
    Ok(Some((host.reason(), host.passes() && host.reason().is_some())))
}

fn seed() -> u64 {
    let given = env::var("PROPTEST_RNG_SEED").ok().map(|text| text.parse().expect("PROPTEST_RNG_SEED is a number"));
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
