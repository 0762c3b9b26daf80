//! Errors as one line of text.
//!
//! Knows only the standard trait. A cause that the message already ends with is not repeated.

use std::error::Error;

/// The message of an error, followed by those of its causes.
pub fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let mut text = error.to_string();
    for cause in causes {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{message}")]
    struct Outer {
        message: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn causes_follow_the_message_unless_it_ends_with_them() {
        let error = |message| Outer { message, source: std::io::Error::other("no space") };
        assert_eq!(with_causes(&error("cannot write")), "cannot write: no space");
        assert_eq!(with_causes(&error("cannot write: no space")), "cannot write: no space");
    }
}
