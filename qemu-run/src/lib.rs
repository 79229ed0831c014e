//! Set-up, build, machine profiles, run, migrate, report.
