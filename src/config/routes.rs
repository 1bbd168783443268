//! `[routes]`.

use super::reader::Reader;
use crate::gateway::Routes;

pub(super) fn read(r: &mut Reader<'_>) -> Routes {
    r.choice("routes.other", &[("refuse", Routes::ExportsOnly), ("forward", Routes::Everything)])
}
