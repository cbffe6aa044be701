//! What the commands of an administrator share: which pipelines, by which connection, on which runtime.

use super::{FAILED, GlobalArgs, WRONG_USAGE};
use crate::config::origin::Loaded;
use crate::config::secret::Secret;
use crate::config::{Config, PipelineConfig};
use crate::sources::postgres::config::Connection;
use std::process::ExitCode;

/// Which pipelines, and as whom.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AdminArgs {
    /// Only this pipeline [default: all of the file]
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Connection of the table's owner, instead of [pipelines.NAME.admin]; the password belongs in the file or the variable
    #[arg(long, value_name = "URL", env = "TAILWATER_ADMIN_URL", hide_env_values = true)]
    pub admin_url: Option<String>,
}

impl AdminArgs {
    /// The pipelines asked for, or a sentence for the person who asked.
    pub fn pipelines<'a>(&self, config: &'a Config) -> Result<Vec<(&'a String, &'a PipelineConfig)>, String> {
        let chosen: Vec<_> = config
            .pipelines
            .iter()
            .filter(|(name, _)| self.pipeline.as_ref().is_none_or(|wanted| wanted == *name))
            .collect();
        if chosen.is_empty() {
            let names: Vec<&str> = config.pipelines.keys().map(String::as_str).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let wanted = self.pipeline.as_deref().unwrap_or("to work on");
            return Err(format!("there is no pipeline {wanted}; the configuration has: {names}"));
        }
        Ok(chosen)
    }

    /// The administrator's connection.
    pub fn connection(&self, name: &str, pipeline: &PipelineConfig) -> Result<Connection, String> {
        match (&self.admin_url, &pipeline.admin) {
            (Some(url), _) => Ok(Connection { url: Some(Secret::new(url)), ..Connection::default() }),
            (None, Some(admin)) => Ok(admin.clone()),
            (None, None) => Err(format!(
                "pipeline {name} has no admin connection\n  what to do: set TAILWATER_ADMIN_URL (postgres://owner@host/db), \
                 or write\n    [pipelines.{name}.admin]\n    url = \"postgres://owner@host/db\""
            )),
        }
    }
}

/// Loads the configuration and runs `work`; its number is the exit code.
pub fn with_config(global: &GlobalArgs, work: impl AsyncFnOnce(&Loaded) -> u8) -> ExitCode {
    let loaded = match super::load(global) {
        Ok(loaded) => loaded,
        Err(error) => return super::refuse(global, &error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tailwater: start the runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    ExitCode::from(runtime.block_on(work(&loaded)))
}

/// Says why nothing was done, and gives exit code 2.
pub fn wrong_usage(why: &str) -> u8 {
    eprintln!("tailwater: {why}");
    WRONG_USAGE
}
