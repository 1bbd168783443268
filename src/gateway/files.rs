//! The answers to calls for files.

use http::{Response, Version};

use super::exchange::Exchange;
use super::failure::{Failure, NoFile};
use super::file_reply::{self, FileReply};
use super::{ClientRequest, Gateway};
use crate::access::Holder;
use crate::downloads::{CutReason, FileStream};
use crate::export::{FilesCall, FilesTarget};
use crate::files::{Ask, Conditions, FileAnswer, Opened};
use crate::route::Route;
use crate::transport::Body;

/// A call for files, and what is asked for it.
pub(super) struct FilesRequest {
    pub(super) call: FilesCall,
    pub(super) ask: Ask,
}

impl Gateway {
    /// Answers a call for files.
    pub(super) async fn answer_files(
        &self,
        exchange: &mut Exchange,
        request: &ClientRequest,
        holder: Holder,
        FilesRequest { call, mut ask }: FilesRequest,
    ) -> Result<Response<Body>, Failure> {
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
        if !self.access.still_permits(&holder, &route) {
            return Err(NoFile::Cut(CutReason::Revoked).into());
        }
        let permit = ask.asker.permit.share();
        let conditions = Conditions::of(&request.parts.method, &request.parts.headers);
        let opened = download.until_cut(self.files.open(ask, file, &conditions)).await;
        let opened = opened.map_err(NoFile::Cut)?.map_err(|error| exchange.no_files(error))?;
        let Opened { results, description, answer } = opened;
        exchange.files_of(results)?;
        let reply = FileReply { export: &call.export, file, description: &description };
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
