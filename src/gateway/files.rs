//! The answers to calls for files.

use http::{Response, Version};

use super::exchange::Exchange;
use super::failure::{Failure, FailureKind, NoFile};
use super::file_reply::{self, FileReply};
use super::question::files_question;
use super::{ClientRequest, Gateway};
use crate::access::Holder;
use crate::downloads::{CutReason, FileStream};
use crate::export::{FilesCall, FilesTarget};
use crate::files::{Ask, Conditions, FileAnswer, Opened};
use crate::retrieval::{Asker, Wanted};
use crate::route::Route;
use crate::transport::Body;

/// The one who calls for files.
pub(super) struct FilesCaller {
    pub(super) asker: Asker,
    pub(super) wanted: Wanted,
    pub(super) holder: Holder,
}

impl Gateway {
    /// Answers a call for files, from the results of its export.
    pub(super) async fn answer_files_call(
        &self,
        exchange: &mut Exchange,
        request: &ClientRequest,
        call: FilesCall,
        caller: FilesCaller,
    ) -> Result<Response<Body>, Failure> {
        let scope = std::slice::from_ref(&call.scope);
        let credential = self.credentials.choose(scope).ok_or(FailureKind::NoCredential)?;
        let question = files_question(&call, credential, request);
        let FilesCaller { asker, wanted, holder } = caller;
        let mut ask = Ask { question, asker, wanted, now: self.clock.now() };
        let file = match call.target {
            FilesTarget::File(file) => file,
            FilesTarget::Index => {
                let index = self.files.index(ask).await.map_err(|error| exchange.no_files(error))?;
                let reply = file_reply::index(&call, &index);
                exchange.files_of(index.results)?;
                return Ok(reply);
            }
        };
        let download = self.downloads.begin(exchange.id, holder.clone(), &call, exchange.started);
        // Whoever changes the clients cuts what is registered; what changed before that is seen here.
        let route = Route::Files(call.clone());
        if !self.access.still_permits(&holder, &route) || !self.named.still_serves(&call, &holder.client) {
            return Err(NoFile::Cut(CutReason::Revoked).into());
        }
        let permit = ask.asker.permit.share();
        let conditions = Conditions::of(&request.parts.method, &request.parts.headers);
        let opened = download.until_cut(self.files.open(ask, file, &conditions)).await;
        let opened = opened.map_err(NoFile::Cut)?.map_err(|error| exchange.no_files(error))?;
        let Opened { results, description, answer } = opened;
        exchange.files_of(results)?;
        let reply = FileReply { call: &call, file, description: &description };
        Ok(match answer {
            FileAnswer::Whole(_)
                if description.size.is_none() && request.parts.version < Version::HTTP_11 =>
            {
                return Err(NoFile::LengthUnknown.into());
            }
            FileAnswer::Whole(body) => {
                let stream = FileStream { body, span: None, permit };
                reply.whole(Body::Right(download.stream(stream)))
            }
            FileAnswer::Range { span, body } => {
                let stream = FileStream { body, span: Some(span), permit };
                reply.range(span, Body::Right(download.stream(stream)))
            }
            FileAnswer::Head => reply.head(),
            FileAnswer::NotModified => reply.not_modified(),
            FileAnswer::Unsatisfiable => {
                return Err(NoFile::Unsatisfiable(description.size.unwrap_or_default()).into());
            }
            FileAnswer::PreconditionFailed => return Err(NoFile::PreconditionFailed.into()),
        })
    }
}
