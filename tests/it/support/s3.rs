//! A server of a test's own that speaks S3: moto.

use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use tempfile::TempDir;
use weir::store::Credentials;

use super::eventually;
use super::http::Raw;
use super::http::Response;
use super::ports::Port;

/// A policy of moto's IAM: everything of S3.
const ALL_OF_S3: &str = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect\
    %22%3A%22Allow%22%2C%22Action%22%3A%22s3%3A%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";

/// A server that lets everybody in until [`Self::lock`]; stopped when dropped.
pub(crate) struct S3 {
    port: Port,
    child: Child,
    _folder: TempDir,
}

impl S3 {
    pub(crate) fn start() -> Self {
        let (port, folder) = (Port::take(), tempfile::tempdir().unwrap());
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program())
            .args(["-H", "127.0.0.1", "-p", &port.number().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { port, child, _folder: folder };
        eventually("moto listens", || TcpStream::connect(server.port.address()).is_ok());
        server
    }

    /// Makes a bucket and says how to write it in the settings.
    pub(crate) fn bucket(&self, name: &str) -> String {
        self.ask(&format!("PUT /{name}"), "", "");
        self.setting(name)
    }

    /// The setting of a bucket that may or may not be there.
    pub(crate) fn setting(&self, bucket: &str) -> String {
        format!("s3://{bucket}?endpoint=http://{}", self.port.address())
    }

    /// From now on only these credentials are let in, and signatures are checked. moto checks those
    /// of plain keys only: it quotes others twice, and refuses AWS's own client, too.
    pub(crate) fn lock(&self) -> Credentials {
        self.iam("Action=CreateUser&UserName=weir");
        let key = self.iam("Action=CreateAccessKey&UserName=weir").text();
        let policy = "Action=PutUserPolicy&UserName=weir&PolicyName=all&PolicyDocument=";
        self.iam(&format!("{policy}{ALL_OF_S3}"));
        self.ask("POST /moto-api/reset-auth", "", "0");
        let text = |tag: &str| {
            let rest = key.split_once(&format!("<{tag}>")).unwrap().1;
            rest.split_once('<').unwrap().0.to_owned()
        };
        credentials(&text("AccessKeyId"), &text("SecretAccessKey"))
    }

    /// moto knows the service by the credential's scope.
    fn iam(&self, form: &str) -> Response {
        let headers = "authorization: AWS4-HMAC-SHA256 Credential=any/20261123/us-east-1/iam/\
             aws4_request, SignedHeaders=host, Signature=any\r\n\
             content-type: application/x-www-form-urlencoded\r\n";
        self.ask("POST /", headers, &format!("Version=2010-05-08&{form}"))
    }

    fn ask(&self, line: &str, headers: &str, body: &str) -> Response {
        let request = format!(
            "{line} HTTP/1.1\r\nhost: {}\r\n{headers}content-length: {}\r\n\r\n{body}",
            self.port.address(),
            body.len()
        );
        let response = Raw::connect(self.port.address()).send(request).response().unwrap();
        assert_eq!(response.status, 200, "{line}: {}", response.text());
        response
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It keeps nothing that would have to be saved.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Credentials as the environment would have them.
pub(crate) fn credentials(key_id: &str, secret: &str) -> Credentials {
    Credentials {
        key_id: Some(key_id.to_owned()),
        secret: Some(secret.to_owned().into()),
        ..Credentials::default()
    }
}

/// Where `tests/run` installs it, else the PATH.
fn program() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let installed = [target.join("moto/bin")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = installed.into_iter().chain(std::env::split_paths(&path));
    folders.find_map(|folder| Some(folder.join("moto_server")).filter(|p| p.exists())).expect(
        "this test needs moto, a server that speaks S3: tests/run installs it (or put \
         moto_server into the PATH: pip install 'moto[s3]' flask flask-cors)",
    )
}
