//! What the functions of this crate need of a driver: run a statement with text parameters. Not for others to implement,
//! and no place for pools, retries or types.

use std::future::Future;

/// An error of the driver in use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    #[error(transparent)]
    TokioPostgres(#[from] tokio_postgres::Error),
    #[cfg(feature = "sqlx")]
    #[error(transparent)]
    Sqlx(#[from] sqlx::Error),
}

impl DatabaseError {
    /// The five characters of SQLSTATE, if it was the server that refused (PostgreSQL manual, appendix A).
    pub fn code(&self) -> Option<String> {
        match self {
            DatabaseError::TokioPostgres(error) => error.code().map(|code| code.code().to_owned()),
            #[cfg(feature = "sqlx")]
            DatabaseError::Sqlx(error) => error.as_database_error()?.code().map(|code| code.into_owned()),
        }
    }
}

/// A row whose columns are all text.
type TextRow = Vec<Option<String>>;

/// A connection or a transaction: of tokio-postgres, or (feature `sqlx`) of sqlx. Implemented here and nowhere else.
pub trait Connection: sealed::Sealed {
    #[doc(hidden)]
    fn run(&mut self, sql: &str, values: &[&str]) -> impl Future<Output = Result<u64, DatabaseError>> + Send;
    #[doc(hidden)]
    fn row(&mut self, sql: &str, values: &[&str]) -> impl Future<Output = Result<TextRow, DatabaseError>> + Send;
    /// Several statements without parameters.
    #[doc(hidden)]
    fn script(&mut self, sql: &str) -> impl Future<Output = Result<(), DatabaseError>> + Send;
}

/// A [`Connection`] inside a transaction. There is no way to get one from a plain connection: what is written with it
/// commits with the caller's own work, or not at all.
pub trait Transaction: Connection {}

impl Transaction for tokio_postgres::Transaction<'_> {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for tokio_postgres::Client {}
    impl Sealed for tokio_postgres::Transaction<'_> {}
    #[cfg(feature = "sqlx")]
    impl Sealed for sqlx::PgConnection {}
    #[cfg(feature = "sqlx")]
    impl Sealed for sqlx::Transaction<'_, sqlx::Postgres> {}
}

mod tokio_postgres_driver {
    use super::{Connection, DatabaseError, TextRow};
    use tokio_postgres::Row;
    use tokio_postgres::types::{ToSql, Type};

    /// One round trip: the types are known, nothing is prepared (which poolers between here and the server like, too).
    fn typed<'a>(values: &'a [&'a str]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
        values.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect()
    }

    fn texts(rows: &[Row]) -> Result<TextRow, DatabaseError> {
        let Some(row) = rows.first() else { return Ok(Vec::new()) };
        Ok((0..row.len()).map(|column| row.try_get(column)).collect::<Result<_, _>>()?)
    }

    macro_rules! implement {
        ($driver:ty) => {
            impl Connection for $driver {
                async fn run(&mut self, sql: &str, values: &[&str]) -> Result<u64, DatabaseError> {
                    Ok(self.execute_typed(sql, &typed(values)).await?)
                }
                async fn row(&mut self, sql: &str, values: &[&str]) -> Result<TextRow, DatabaseError> {
                    texts(&self.query_typed(sql, &typed(values)).await?)
                }
                async fn script(&mut self, sql: &str) -> Result<(), DatabaseError> {
                    Ok(self.batch_execute(sql).await?)
                }
            }
        };
    }
    implement!(tokio_postgres::Client);
    implement!(tokio_postgres::Transaction<'_>);
}

#[cfg(feature = "sqlx")]
mod sqlx_driver {
    use super::{Connection, DatabaseError, TextRow, Transaction};
    use sqlx::{AssertSqlSafe, Executor, PgConnection, Postgres, Row};

    impl Transaction for sqlx::Transaction<'_, Postgres> {}

    impl Connection for PgConnection {
        // Statements are made of quoted names (`name.rs`) and constants; values always travel as parameters.
        async fn run(&mut self, sql: &str, values: &[&str]) -> Result<u64, DatabaseError> {
            let query = values.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(*value));
            Ok(query.execute(self).await?.rows_affected())
        }
        async fn row(&mut self, sql: &str, values: &[&str]) -> Result<TextRow, DatabaseError> {
            let query = values.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(*value));
            let Some(row) = query.fetch_optional(self).await? else { return Ok(Vec::new()) };
            Ok((0..row.len()).map(|column| row.try_get(column)).collect::<Result<_, _>>()?)
        }
        async fn script(&mut self, sql: &str) -> Result<(), DatabaseError> {
            self.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
            Ok(())
        }
    }

    impl Connection for sqlx::Transaction<'_, Postgres> {
        async fn run(&mut self, sql: &str, values: &[&str]) -> Result<u64, DatabaseError> {
            (**self).run(sql, values).await
        }
        async fn row(&mut self, sql: &str, values: &[&str]) -> Result<TextRow, DatabaseError> {
            (**self).row(sql, values).await
        }
        async fn script(&mut self, sql: &str) -> Result<(), DatabaseError> {
            (**self).script(sql).await
        }
    }
}
