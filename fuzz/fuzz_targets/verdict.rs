//! Drives `bulkhead_fuzz::verdict` with libFuzzer. Holds no property.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bulkhead_fuzz::verdict::check(input));
