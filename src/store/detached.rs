//! Writes that their caller can't drop half-way.

use std::io;

use tracing::Instrument;

use super::Error;

/// Runs `work` in a task of its own and waits for it. A caller that goes away does not stop
/// it: a future that is dropped inside a transaction leaves its connection in the middle of
/// one. A panic in it is an internal error.
pub async fn detached<T, E>(work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            Err(Error::Internal(sqlx::Error::Io(io::Error::other(error))).into())
        }
        // The runtime is shutting down: how far the task got is unknown.
        Err(error) => Err(Error::OutcomeUnknown(sqlx::Error::Io(io::Error::other(error))).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let result: Result<(), Error> = detached(async { panic!("a defect") }).await;
        assert!(matches!(result, Err(Error::Internal(_))), "{result:?}");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_stop_the_work() {
        let (done, ended) = oneshot::channel();
        let work = detached(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            done.send(()).map_err(|()| Error::Internal(sqlx::Error::PoolClosed))
        });
        assert!(tokio::time::timeout(Duration::from_millis(1), work).await.is_err(), "dropped");
        tokio::time::timeout(Duration::from_secs(5), ended)
            .await
            .expect("in time")
            .expect("the work went on");
    }
}
