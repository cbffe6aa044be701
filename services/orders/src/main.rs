//! The order services: one program, one subcommand per role.

fn main() {}
