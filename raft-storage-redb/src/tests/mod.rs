//! The store against a naive model, against crashes, and against damaged or foreign files.

mod crash;
mod damage;
mod disk;
mod early;
mod faults;
mod journal;
mod kill9;
mod lives;
mod logged;
mod model;
