//! gateway.

/// `[routes]`: what happens to calls that are no export calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    /// Answered 404 by us.
    ExportsOnly,
    /// Forwarded under `/rest/…` and `/v1/…`.
    Everything,
}
