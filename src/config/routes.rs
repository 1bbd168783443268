//! `[routes]`.

use super::reader::Reader;
use crate::gateway::Routes;

pub(super) fn read(r: &mut Reader<'_>) -> Routes {
    r.choice(
        (
            "routes.other",
            "refuse",
            "Calls that are no export calls: \"refuse\", or \"forward\" those below /rest/ and /v1/.",
        ),
        &[("refuse", Routes::ExportsOnly), ("forward", Routes::Everything)],
    )
}
