//! The migration states and the paths between them (VFIO migration protocol v2).
//!
//! A request names a target; the device goes there by the shortest path of single arcs, and never passes through a state
//! that saves. States that a device does not have are skipped by asking the table again from them. ERROR is left only by
//! a reset.

use uapi::vfio::{
    MIGRATION_P2P, MIGRATION_PRE_COPY, STATE_ERROR, STATE_PRE_COPY, STATE_PRE_COPY_P2P, STATE_RESUMING, STATE_RUNNING,
    STATE_RUNNING_P2P, STATE_STOP, STATE_STOP_COPY,
};

const ERR: u8 = STATE_ERROR as u8;
const STOP: u8 = STATE_STOP as u8;
const RUN: u8 = STATE_RUNNING as u8;
const COPY: u8 = STATE_STOP_COPY as u8;
const RESUM: u8 = STATE_RESUMING as u8;
const RUN_P2P: u8 = STATE_RUNNING_P2P as u8;
const PRE: u8 = STATE_PRE_COPY as u8;
const PRE_P2P: u8 = STATE_PRE_COPY_P2P as u8;

/// Next state on the way from row to column; rows and columns in the order of the state numbers.
#[rustfmt::skip]
const NEXT: [[u8; 8]; 8] = [
    //            ERROR STOP     RUNNING  STOP_COPY RESUMING RUN_P2P  PRE_COPY PRE_P2P
    /* ERROR */  [ERR,  ERR,     ERR,     ERR,      ERR,     ERR,     ERR,     ERR],
    /* STOP */   [ERR,  STOP,    RUN_P2P, COPY,     RESUM,   RUN_P2P, RUN_P2P, RUN_P2P],
    /* RUNNING */[ERR,  RUN_P2P, RUN,     RUN_P2P,  RUN_P2P, RUN_P2P, PRE,     RUN_P2P],
    /* COPY */   [ERR,  STOP,    STOP,    COPY,     STOP,    STOP,    ERR,     ERR],
    /* RESUM */  [ERR,  STOP,    STOP,    STOP,     RESUM,   STOP,    STOP,    STOP],
    /* RUN_P2P */[ERR,  STOP,    RUN,     STOP,     STOP,    RUN_P2P, RUN,     PRE_P2P],
    /* PRE */    [ERR,  RUN,     RUN,     PRE_P2P,  RUN,     RUN,     PRE,     PRE_P2P],
    /* PRE_P2P */[ERR,  RUN_P2P, RUN_P2P, COPY,     RUN_P2P, RUN_P2P, PRE,     PRE_P2P],
];

/// Does a device with these abilities have the state?
pub(crate) fn has(state: u32, abilities: u64) -> bool {
    match state {
        STATE_STOP | STATE_RUNNING | STATE_STOP_COPY | STATE_RESUMING => true,
        STATE_RUNNING_P2P => abilities & MIGRATION_P2P != 0,
        STATE_PRE_COPY => abilities & MIGRATION_PRE_COPY != 0,
        STATE_PRE_COPY_P2P => abilities & (MIGRATION_PRE_COPY | MIGRATION_P2P) == MIGRATION_PRE_COPY | MIGRATION_P2P,
        _ => false,
    }
}

/// The next state from `now` to `target`; `None` if there is no way.
pub(crate) fn next(now: u32, target: u32, abilities: u64) -> Option<u32> {
    if !has(now, abilities) || !has(target, abilities) {
        return None;
    }
    let mut at = now;
    // Each look-up gets closer, so fewer than the number of states are needed.
    for _ in 0..NEXT.len() {
        at = u32::from(*NEXT.get(at as usize)?.get(target as usize)?);
        if at == STATE_ERROR {
            return None;
        }
        if has(at, abilities) {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use uapi::vfio::MIGRATION_STOP_COPY;

    const PLAIN: u64 = MIGRATION_STOP_COPY;
    const ALL: u64 = MIGRATION_STOP_COPY | MIGRATION_P2P | MIGRATION_PRE_COPY;

    fn path(from: u32, to: u32, abilities: u64) -> Option<Vec<u32>> {
        let (mut at, mut all) = (from, Vec::new());
        while at != to {
            at = next(at, to, abilities)?;
            all.push(at);
            assert!(all.len() < 8, "{from} -> {to} does not end");
        }
        Some(all)
    }

    /// The arcs of the interface's description, typed from it.
    fn is_arc(from: u32, to: u32, abilities: u64) -> bool {
        let p2p = abilities & MIGRATION_P2P != 0;
        let pre = abilities & MIGRATION_PRE_COPY != 0;
        let base = [(4, 1), (1, 4), (1, 3), (3, 1)];
        let with_p2p = [(2, 5), (5, 2), (5, 1), (1, 5)];
        let without = [(2, 1), (1, 2)];
        let with_pre = [(2, 6), (6, 2), (6, 3)];
        let both = [(6, 7), (7, 6), (7, 5), (7, 3), (5, 7), (2, 6), (6, 2)];
        let arc = (from, to);
        base.contains(&arc)
            || p2p && with_p2p.contains(&arc)
            || !p2p && without.contains(&arc)
            || pre && !p2p && with_pre.contains(&arc)
            || pre && p2p && both.contains(&arc)
    }

    #[test]
    fn every_path_is_made_of_arcs_and_passes_no_saving_state() {
        for abilities in [PLAIN, PLAIN | MIGRATION_P2P, PLAIN | MIGRATION_PRE_COPY, ALL] {
            for from in 1..8 {
                for to in 1..8 {
                    let Some(path) = path(from, to, abilities) else { continue };
                    let mut at = from;
                    for (index, step) in path.iter().enumerate() {
                        assert!(is_arc(at, *step, abilities), "{from} -> {to}: {at} -> {step} ({abilities})");
                        let interior = index + 1 < path.len();
                        let saving = [3, 6, 7].contains(step);
                        // Within the saving group the session goes on.
                        let leaving = [3, 6, 7].contains(&from) && [3, 6, 7].contains(&to);
                        assert!(!interior || !saving || leaving, "{from} -> {to} passes {step}");
                        at = *step;
                    }
                }
            }
        }
    }

    #[test]
    fn without_options_the_usual_ways() {
        assert_eq!(path(2, 3, PLAIN).unwrap(), [1, 3]);
        assert_eq!(path(2, 4, PLAIN).unwrap(), [1, 4]);
        assert_eq!(path(4, 2, PLAIN).unwrap(), [1, 2]);
        assert_eq!(path(3, 2, PLAIN).unwrap(), [1, 2]);
        assert_eq!(path(3, 4, PLAIN).unwrap(), [1, 4]);
        assert_eq!(path(2, 3, PLAIN | MIGRATION_P2P).unwrap(), [5, 1, 3]);
        assert_eq!(path(6, 3, ALL).unwrap(), [7, 3]);
    }

    #[test]
    fn error_unknown_and_unsupported_states_cannot_be_reached_or_left() {
        for other in 1..8 {
            assert_eq!(next(0, other, ALL), None);
            assert_eq!(next(other, 0, ALL), None);
            assert_eq!(next(other, 8, ALL), None);
            assert_eq!(next(8, other, ALL), None);
        }
        for optional in [5, 6, 7] {
            assert_eq!(next(2, optional, PLAIN), None);
        }
        assert_eq!(next(3, 6, ALL), None);
        assert_eq!(next(3, 7, ALL), None);
        assert_eq!(next(2, u32::MAX, ALL), None);
    }
}
