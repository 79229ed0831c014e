//! Futexes: no wake-up is lost, whatever the order of steps.

mod kit;

use kit::{BUF, Bench, failed, nr};
use std::sync::Arc;
use task::Thread;
use uapi::Errno;

const WORD: u64 = BUF + 0x40;
const WAIT: u64 = 128;
const WAKE: u64 = 129;

fn threads(bench: &Bench, count: usize) -> Vec<Arc<Thread>> {
    let main = bench.program();
    let mut all = vec![main.clone()];
    for _ in 1..count {
        bench.enter(&main, nr::CLONE, &[0x3d_0f00, BUF + 0x8000, BUF + 4, 0, 0]);
        let pair = [bench.next().unwrap(), bench.next().unwrap()];
        all.extend(pair.into_iter().filter(|thread| !Arc::ptr_eq(thread, &main)));
    }
    all
}

#[test]
fn waits_only_while_the_word_has_the_value() {
    let bench = Bench::new();
    let all = threads(&bench, 2);
    assert_eq!(bench.done(&all[0], nr::FUTEX, &[WORD, WAIT, 1, 0]), failed(Errno::EAGAIN));
    assert_eq!(bench.done(&all[0], nr::FUTEX, &[WORD + 1, WAIT, 0, 0]), failed(Errno::EINVAL));
    assert_eq!(bench.done(&all[0], nr::FUTEX, &[0xdead_0000, WAIT, 0, 0]), failed(Errno::EFAULT));
    assert_eq!(bench.done(&all[0], nr::FUTEX, &[0xffff_8000_0000_0000, 0, 0, 0]), failed(Errno::EFAULT));
    assert_eq!(bench.done(&all[0], nr::FUTEX, &[WORD, 9, 0, 0, 0, 0]), failed(Errno::EINVAL));
    assert_eq!(bench.done(&all[0], nr::FUTEX, &[WORD, 77, 0, 0]), failed(Errno::ENOSYS));
    bench.enter(&all[0], nr::FUTEX, &[WORD, WAIT, 0, 0]);
    assert!(bench.next().is_none());
    // The wake-up counts one, once; with or without the private flag the word is the same.
    bench.enter(&all[1], nr::FUTEX, &[WORD, 1, 5]);
    let pair = [bench.next().unwrap(), bench.next().unwrap()];
    assert_eq!(pair.len(), 2);
    assert_eq!((bench.result(&all[0]), bench.result(&all[1])), (0, 1));
    assert_eq!(bench.done(&all[1], nr::FUTEX, &[WORD, WAKE, 5]), 0);
}

#[test]
fn a_timeout_is_told_and_leaves_the_queue() {
    let bench = Bench::new();
    let all = threads(&bench, 1);
    bench.put64(&all[0], BUF, &[0, 1_000_000]);
    assert_eq!(bench.call(&all[0], nr::FUTEX, &[WORD, WAIT, 0, BUF]), None);
    bench.test.clock.advance(1_000_000);
    bench.next().unwrap();
    assert_eq!(bench.result(&all[0]), failed(Errno::ETIMEDOUT));
    assert_eq!(bench.done(&all[0], nr::FUTEX, &[WORD, WAKE, 5]), 0);
    // WAIT_BITSET: an absolute time, monotonic or real.
    bench.put64(&all[0], BUF, &[0, 3_000_000]);
    assert_eq!(bench.call(&all[0], nr::FUTEX, &[WORD, 9 | 128, 0, BUF, 0, u64::MAX]), None);
    assert_eq!(bench.test.kernel.deadline(), Some(3_000_000));
    bench.test.clock.advance(2_000_000);
    bench.next().unwrap();
    let real = task::testing::TEST_EPOCH + 4_000_000;
    bench.put64(&all[0], BUF, &[real / 1_000_000_000, real % 1_000_000_000]);
    assert_eq!(bench.call(&all[0], nr::FUTEX, &[WORD, 9 | 128 | 256, 0, BUF, 0, u64::MAX]), None);
    assert_eq!(bench.test.kernel.deadline(), Some(4_000_000));
}

#[test]
fn requeue_moves_waiters_and_bitsets_choose_them() {
    let bench = Bench::new();
    let all = threads(&bench, 4);
    for thread in &all[1..] {
        bench.enter(thread, nr::FUTEX, &[WORD, WAIT, 0, 0]);
    }
    // CMP_REQUEUE: wake 1, move up to 10, the word must be 0.
    assert_eq!(bench.done(&all[0], nr::FUTEX, &[WORD, 4 | 128, 1, 10, WORD + 8, 5]), failed(Errno::EAGAIN));
    bench.enter(&all[0], nr::FUTEX, &[WORD, 4 | 128, 1, 10, WORD + 8, 0]);
    let woken = [bench.next().unwrap(), bench.next().unwrap()];
    assert!(woken.iter().any(|thread| Arc::ptr_eq(thread, &all[1])), "the first that came");
    assert_eq!(bench.result(&all[0]), 3);
    assert!(bench.next().is_none());
    bench.enter(&all[0], nr::FUTEX, &[WORD + 8, WAKE, 10]);
    assert_eq!([bench.next(), bench.next(), bench.next()].iter().flatten().count(), 3);
    assert_eq!(bench.result(&all[0]), 2);
    bench.enter(&all[1], nr::FUTEX, &[WORD, 9 | 128, 0, 0, 0, 0b01]);
    bench.enter(&all[2], nr::FUTEX, &[WORD, 9 | 128, 0, 0, 0, 0b10]);
    bench.enter(&all[0], nr::FUTEX, &[WORD, 10 | 128, 10, 0, 0, 0b10]);
    let woken = [bench.next().unwrap(), bench.next().unwrap()];
    assert!(woken.iter().any(|thread| Arc::ptr_eq(thread, &all[2])));
    assert!(bench.next().is_none());
}

/// The three-state mutex of the literature (0 free, 1 taken, 2 taken and contended), run by threads whose steps are
/// interleaved by a seeded generator: everybody gets in as often as they want to, and nobody sleeps for ever.
#[test]
fn a_mutex_under_random_interleaving_never_hangs() {
    for seed in 1..60u64 {
        let bench = Bench::new();
        let all = threads(&bench, 4);
        let mut random = seed;
        let mut next = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        #[derive(Clone, Copy, PartialEq, Debug)]
        enum Step {
            Take,
            Contend,
            Sleep,
            Inside,
            Release,
            Wake,
            Over,
        }
        let mut steps = vec![(Step::Take, 0); all.len()];
        let mut inside = 0;
        let word = || bench.get32(&all[0], WORD);
        let set = |value: u32| bench.put(&all[0], WORD, &value.to_le_bytes());
        let mut runnable: Vec<usize> = (0..all.len()).collect();
        let mut turns = 0;
        while steps.iter().any(|(step, _)| *step != Step::Over) {
            turns += 1;
            assert!(turns < 5000, "seed {seed}: {steps:?}, word {}", word());
            // Threads that came back from the kernel.
            while let Some(thread) = bench.next() {
                runnable.push(all.iter().position(|other| Arc::ptr_eq(other, &thread)).unwrap());
            }
            assert!(!runnable.is_empty(), "seed {seed}: everybody sleeps: {steps:?}, word {}", word());
            let me = runnable.swap_remove(next(runnable.len() as u64) as usize);
            let (step, rounds) = &mut steps[me];
            match *step {
                Step::Take => {
                    *step = if word() == 0 { Step::Inside } else { Step::Contend };
                    if *step == Step::Inside {
                        set(1);
                    }
                }
                Step::Contend => {
                    let old = word();
                    set(2);
                    *step = if old == 0 { Step::Inside } else { Step::Sleep };
                }
                Step::Sleep => {
                    *step = Step::Contend;
                    bench.enter(&all[me], nr::FUTEX, &[WORD, WAIT, 2, 0]);
                    continue;
                }
                Step::Inside => {
                    inside += 1;
                    assert_eq!(inside, 1, "seed {seed}: two inside");
                    *step = Step::Release;
                }
                Step::Release => {
                    inside -= 1;
                    let old = word();
                    set(0);
                    *rounds += 1;
                    let rest = if *rounds == 5 { Step::Over } else { Step::Take };
                    *step = if old == 2 { Step::Wake } else { rest };
                }
                Step::Wake => {
                    *step = if *rounds == 5 { Step::Over } else { Step::Take };
                    bench.enter(&all[me], nr::FUTEX, &[WORD, WAKE, 1]);
                    continue;
                }
                Step::Over => continue,
            }
            runnable.push(me);
        }
    }
}
