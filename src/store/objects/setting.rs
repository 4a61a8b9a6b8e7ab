//! The setting `objects`: `file:FOLDER`, or `s3://BUCKET?endpoint=URL&region=NAME&path_style=BOOL`.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use object_store::BackoffConfig;
use object_store::ClientOptions;
use object_store::ObjectStore;
use object_store::RetryConfig;
use object_store::aws::AmazonS3;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;

const FORM: &str = "write it as file:data/objects, or s3://bucket?endpoint=https://host";
/// Longest wait for a connection to a server.
const CONNECT: Duration = Duration::from_secs(5);
/// Tries after the first one, and until when one may begin.
const RETRIES: usize = 3;
const RETRY_FOR: Duration = Duration::from_secs(10);
/// What S3 takes where no region is named, as AWS's own tools do.
const REGION: &str = "us-east-1";

/// The credentials for S3, as the environment has them.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub key_id: Option<String>,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: Option<SecretString>,
    /// `AWS_SESSION_TOKEN`, which credentials for a time have besides.
    pub session_token: Option<SecretString>,
    /// `AWS_REGION`; the setting's own `region` goes before it.
    pub region: Option<String>,
}

/// The store of a setting, and how to call it in messages.
///
/// # Errors
/// A sentence that says what is wrong and what to write.
pub(super) fn open(
    setting: &str,
    credentials: &Credentials,
) -> Result<(Arc<dyn ObjectStore>, String), String> {
    match setting.split_once(':') {
        Some(("file", path)) => folder(path),
        Some(("s3", rest)) => {
            let bucket = Bucket::parse(rest)?;
            let name = bucket.to_string();
            Ok((Arc::new(bucket.connect(credentials)?), name))
        }
        // The text is not repeated: it may hold a password.
        _ => Err(FORM.to_owned()),
    }
}

fn folder(path: &str) -> Result<(Arc<dyn ObjectStore>, String), String> {
    let path = match path.strip_prefix("//") {
        Some(rest) if !rest.starts_with('/') => return Err(FORM.to_owned()),
        Some(rest) => rest,
        None => path,
    };
    let unusable =
        |error: &dyn std::fmt::Display| format!("`{path}` is no folder: {error}; {FORM}");
    let root = std::path::absolute(path).map_err(|error| unusable(&error))?;
    let root = Path::from_absolute_path(root).map_err(|error| unusable(&error))?;
    let files = LocalFileSystem::new().with_fsync(true);
    Ok((Arc::new(PrefixStore::new(files, root)), format!("file:{path}")))
}

/// A bucket's address.
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    name: String,
    endpoint: Option<Uri>,
    region: Option<String>,
    path_style: bool,
}

impl Bucket {
    /// Reads what follows `s3:`.
    fn parse(rest: &str) -> Result<Self, String> {
        let rest = rest.strip_prefix("//").ok_or(FORM)?;
        let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
        let name = name.strip_suffix('/').unwrap_or(name);
        let is_bucket = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || !name.chars().all(is_bucket) || name.starts_with('.') {
            return Err(format!(
                "after s3:// stands the name of a bucket and nothing else (credentials come from \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY); {FORM}"
            ));
        }
        let (mut endpoint, mut region, mut path_style) = (None, None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "endpoint" => endpoint = Some(parse_endpoint(&value)?),
                "region" => region = Some(value.into_owned()).filter(|region| !region.is_empty()),
                "path_style" => path_style = Some(parse_bool(&value)?),
                _ => {
                    return Err(format!(
                        "`{}` is none of endpoint, region and path_style; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                        key.escape_debug()
                    ));
                }
            }
        }
        let path_style = path_style.unwrap_or(endpoint.is_some());
        Ok(Self { name: name.to_owned(), endpoint, region, path_style })
    }

    fn connect(&self, credentials: &Credentials) -> Result<AmazonS3, String> {
        let (Some(key_id), Some(secret)) = (&credentials.key_id, &credentials.secret) else {
            return Err("a bucket needs credentials: set the environment variables \
                        AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                .to_owned());
        };
        // The client asks for the process's default. It is there already, but in tests.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let region = self.region.as_ref().or(credentials.region.as_ref());
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.name)
            .with_region(region.map_or(REGION, String::as_str))
            .with_access_key_id(key_id)
            .with_secret_access_key(secret.expose_secret())
            .with_virtual_hosted_style_request(!self.path_style)
            // One plain DELETE is what all of S3's relatives understand.
            .with_disable_bulk_delete(true)
            .with_client_options(client_options())
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: RETRIES,
                retry_timeout: RETRY_FOR,
            });
        if let Some(token) = &credentials.session_token {
            builder = builder.with_token(token.expose_secret());
        }
        if let Some(endpoint) = self.address() {
            builder = builder.with_endpoint(endpoint);
        }
        builder.build().map_err(|error| format!("{error}; {FORM}"))
    }

    /// The endpoint as the library wants it: with the bucket in its host unless that is in the path.
    fn address(&self) -> Option<String> {
        let endpoint = self.endpoint.as_ref()?;
        let (scheme, host) = (endpoint.scheme_str()?, endpoint.authority()?);
        let path = endpoint.path().trim_end_matches('/');
        Some(match self.path_style {
            true => format!("{scheme}://{host}{path}"),
            false => format!("{scheme}://{}.{host}{path}", self.name),
        })
    }
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}", self.name)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, "?endpoint={endpoint}"),
            None => Ok(()),
        }
    }
}

/// The caller bounds a whole call by its size; the client's own bound is the same for all sizes.
fn client_options() -> ClientOptions {
    ClientOptions::new().with_allow_http(true).with_connect_timeout(CONNECT).with_timeout_disabled()
}

fn parse_endpoint(value: &str) -> Result<Uri, String> {
    let usable = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.query().is_none()
    };
    value.parse().ok().filter(usable).ok_or_else(|| {
        "`endpoint` is no usable URL; write it as https://host/path, without credentials".to_owned()
    })
}

fn parse_bool(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "`path_style` is neither true nor false".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use object_store::signer::Signer as _;

    const SUPABASE: &str = "https://abc.supabase.co/storage/v1/s3";

    fn credentials() -> Credentials {
        Credentials {
            key_id: Some("AKIA1".to_owned()),
            secret: Some("c2VjcmV0".to_owned().into()),
            session_token: None,
            region: Some("eu-central-1".to_owned()),
        }
    }

    fn refused(setting: &str, credentials: &Credentials) -> String {
        open(setting, credentials).map(|(_, name)| name).unwrap_err()
    }

    /// Where the object `a/ü` of the bucket `bodies` is asked for, and the region it is signed for.
    async fn asked(query: &str) -> (String, String) {
        let bucket = Bucket::parse(&format!("//bodies{query}")).unwrap();
        let s3 = bucket.connect(&credentials()).unwrap();
        let key = Path::parse("a/ü").unwrap();
        let url = s3.signed_url(Method::GET, &key, Duration::from_secs(60)).await.unwrap();
        let scope = url.query_pairs().find(|(key, _)| key == "X-Amz-Credential").unwrap().1;
        let region = scope.split('/').nth(2).unwrap().to_owned();
        (url.as_str().split('?').next().unwrap().to_owned(), region)
    }

    #[tokio::test]
    async fn objects_are_asked_for_at_the_address_and_region_of_the_setting() {
        let cases = [
            ("", "https://bodies.s3.eu-central-1.amazonaws.com/a/%C3%BC", "eu-central-1"),
            (
                "?region=us-west-2",
                "https://bodies.s3.us-west-2.amazonaws.com/a/%C3%BC",
                "us-west-2",
            ),
            (
                "?path_style=true",
                "https://s3.eu-central-1.amazonaws.com/bodies/a/%C3%BC",
                "eu-central-1",
            ),
            (
                &format!("?endpoint={SUPABASE}"),
                &format!("{SUPABASE}/bodies/a/%C3%BC"),
                "eu-central-1",
            ),
            (
                "?endpoint=http%3A%2F%2F127.0.0.1%3A9000%2F&region=auto",
                "http://127.0.0.1:9000/bodies/a/%C3%BC",
                "auto",
            ),
            (
                "?endpoint=https://minio.example:9000&path_style=false",
                "https://bodies.minio.example:9000/a/%C3%BC",
                "eu-central-1",
            ),
        ];
        for (query, address, region) in cases {
            assert_eq!(asked(query).await, (address.to_owned(), region.to_owned()), "{query}");
        }
    }

    #[test]
    fn what_is_no_store_is_refused_with_a_cure_and_not_repeated() {
        let cases = [
            ("", FORM),
            ("data/objects", FORM),
            ("gs://bodies", FORM),
            ("file:", FORM),
            ("file://host/data", FORM),
            ("s3:bodies", FORM),
            ("s3://", FORM),
            ("s3://bodies/folder", FORM),
            ("s3://AKIA1:c2VjcmV0@bodies", "AWS_SECRET_ACCESS_KEY"),
            ("s3://bodies?secret_access_key=c2VjcmV0", "none of endpoint, region and path_style"),
            ("s3://bodies?endpoint=", "https://host/path"),
            ("s3://bodies?endpoint=127.0.0.1:9000", "https://host/path"),
            ("s3://bodies?endpoint=ftp://host", "https://host/path"),
            ("s3://bodies?endpoint=https://AKIA1:c2VjcmV0@host", "without credentials"),
            ("s3://bodies?endpoint=https://host?key=c2VjcmV0", "without credentials"),
            ("s3://bodies?path_style=yes", "neither true nor false"),
        ];
        for (setting, expected) in cases {
            let message = refused(setting, &credentials());
            assert!(message.contains(expected), "{setting}: {message}");
            assert!(!message.contains("c2VjcmV0"), "{setting}: {message}");
        }
    }

    #[test]
    fn a_bucket_needs_both_halves_of_the_credentials_and_a_folder_none() {
        let no_secret = Credentials { secret: None, ..credentials() };
        let no_id = Credentials { key_id: None, ..credentials() };
        for incomplete in [no_secret, no_id] {
            let message = refused("s3://bodies", &incomplete);
            assert!(message.contains("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), "{message}");
        }
        for folder in ["file:data/objects", "file:/var/lib/weir", "file:///var/lib/weir"] {
            assert!(open(folder, &Credentials::default()).is_ok(), "{folder}");
        }
    }

    #[test]
    fn a_store_is_called_by_the_name_in_the_settings() {
        for name in ["file:data/objects", "s3://bodies", "s3://bodies?endpoint=https://host/s3"] {
            assert_eq!(open(name, &credentials()).unwrap().1, name);
        }
    }
}
