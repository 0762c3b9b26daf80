//! The objects people write: their types, their schema, their rules, and what they mean to the model.

pub mod cidr;
pub mod finding;
pub mod yaml;
