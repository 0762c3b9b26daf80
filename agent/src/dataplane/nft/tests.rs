//! Tests of registers and headers, without a kernel.

use super::*;

#[test]
fn registers_have_the_names_that_the_kernel_returns() {
    assert_eq!([0, 1, 2, 4, 8, 9].map(register), [1, 9, 10, 2, 3, 17]);
}

#[test]
fn a_message_has_both_headers() {
    let message =
        Message { operation: String::new(), kind: MessageKind::GetRule, flags: DUMP, body: Attributes::new() };
    let mut bytes = Vec::new();
    message.encode(&mut bytes, 4, 5);
    assert_eq!(bytes, [20, 0, 0, 0, 7, 10, 5, 3, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
}
