//! A read-only image registry over plain HTTP: the pull half of the OCI distribution API, for one trusted network.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::images::{MANIFEST_TYPE, blob_path, tag_path};

/// An idle connection is closed after this long; containerd opens a new one.
const IDLE: Duration = Duration::from_mins(1);
/// Longest request line or header that is read.
const LINE: u64 = 16 << 10;

/// Serves `registry` until the listener fails; a thread per connection is plenty for a handful of nodes.
pub fn serve(listener: &TcpListener, registry: &Path) -> Result<()> {
    let registry = Arc::new(registry.to_owned());
    for stream in listener.incoming() {
        let stream = stream.context("cannot accept a connection")?;
        let registry = Arc::clone(&registry);
        thread::spawn(move || {
            if let Err(error) = connection(stream, &registry) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn connection(stream: TcpStream, registry: &Path) -> Result<()> {
    stream.set_read_timeout(Some(IDLE)).context("cannot set a timeout")?;
    let mut writer = stream.try_clone().context("cannot duplicate a connection")?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        let answer = request.answer(registry);
        println!("{} {} {}", answer.status, request.method, request.path);
        answer.write(&mut writer, request.method != "HEAD").context("cannot answer")?;
        if request.close {
            break;
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    close: bool,
}

impl Request {
    /// The next request, none at the end of the connection or when it was idle too long.
    fn read(reader: &mut impl BufRead) -> Result<Option<Self>> {
        let Ok(Some(line)) = read_line(reader) else { return Ok(None) };
        let mut words = line.split_ascii_whitespace();
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
        let path = path.split('?').next().unwrap_or_default().to_owned();
        let mut request = Self { method: method.to_owned(), path, close: false };
        while let Some(header) = read_line(reader).context("cannot read a header")? {
            if header.is_empty() {
                return Ok(Some(request));
            }
            request.close |= header.eq_ignore_ascii_case("connection: close");
        }
        Ok(None)
    }

    fn answer(&self, registry: &Path) -> Answer {
        if self.method != "GET" && self.method != "HEAD" {
            return Answer::text(405, "this registry is read-only");
        }
        match Route::of(&self.path) {
            Some(Route::Base) => Answer::text(200, "{}"),
            Some(Route::Manifest(name, reference)) => {
                let digest = if is_digest(reference) {
                    Some(reference.to_owned())
                } else {
                    fs::read_to_string(tag_path(registry, name, reference)).ok()
                };
                Answer::blob(registry, digest, MANIFEST_TYPE)
            }
            Some(Route::Blob(digest)) => {
                Answer::blob(registry, Some(digest.to_owned()), "application/octet-stream")
            }
            None => Answer::text(404, "not found"),
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    let read = std::io::Read::take(reader, LINE).read_line(&mut line)?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Base,
    Manifest(&'a str, &'a str),
    Blob(&'a str),
}

impl<'a> Route<'a> {
    /// Every segment is a plain name, so no path leaves the registry's folder.
    fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v2/")?;
        if rest.is_empty() {
            return Some(Self::Base);
        }
        let plain = |segment: &str| {
            !segment.starts_with('.')
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
        };
        if !rest.split('/').all(|segment| !segment.is_empty() && plain(segment)) {
            return None;
        }
        let (head, reference) = rest.rsplit_once('/')?;
        let (name, kind) = head.rsplit_once('/')?;
        match kind {
            "manifests" => Some(Self::Manifest(name, reference)),
            "blobs" if is_digest(reference) => Some(Self::Blob(reference)),
            _ => None,
        }
    }
}

fn is_digest(reference: &str) -> bool {
    reference
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[derive(Debug)]
struct Answer {
    status: u16,
    kind: &'static str,
    digest: Option<String>,
    length: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Text(&'static str),
    File(PathBuf),
}

impl Answer {
    fn text(status: u16, text: &'static str) -> Self {
        Self {
            status,
            kind: "application/json",
            digest: None,
            length: text.len() as u64,
            body: Body::Text(text),
        }
    }

    fn blob(registry: &Path, digest: Option<String>, kind: &'static str) -> Self {
        let found = digest.and_then(|digest| {
            let path = blob_path(registry, &digest);
            let length = fs::metadata(&path).ok()?.len();
            Some(Self { status: 200, kind, digest: Some(digest), length, body: Body::File(path) })
        });
        found.unwrap_or_else(|| Self::text(404, "not found"))
    }

    fn write(&self, writer: &mut impl Write, body: bool) -> Result<()> {
        let Self { status, kind, length, .. } = self;
        let head = format!("HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n");
        writer.write_all(head.as_bytes())?;
        if let Some(digest) = &self.digest {
            write!(writer, "Docker-Content-Digest: {digest}\r\n")?;
        }
        writer.write_all(b"\r\n")?;
        if body {
            match &self.body {
                Body::Text(text) => writer.write_all(text.as_bytes())?,
                Body::File(path) => {
                    let mut file =
                        fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
                    std::io::copy(&mut file, writer)?;
                }
            }
        }
        writer.flush().context("cannot send")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::images::write_image;

    fn get(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn image_written_while_the_registry_runs_can_be_pulled() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let registry = folder.path().to_owned();
        thread::spawn(move || serve(&listener, &registry));
        assert!(get(address, "GET /v2/").starts_with("HTTP/1.1 200"));
        assert!(get(address, "GET /v2/lab/x/manifests/1").starts_with("HTTP/1.1 404"));

        fs::write(folder.path().join("program"), "binary").unwrap();
        let files = [("/program", folder.path().join("program"))];
        let files = files.each_ref().map(|(path, host)| (*path, host.as_path()));
        let written = write_image(folder.path(), "lab/x", "1", &["/program"], &files, "65532").unwrap();
        let head = get(address, "HEAD /v2/lab/x/manifests/1");
        assert!(
            head.contains(MANIFEST_TYPE) && head.contains(&written.digest) && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        let manifest = get(address, &format!("GET /v2/lab/x/manifests/{}", written.digest));
        let body: serde_json::Value =
            serde_json::from_str(manifest.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let layer =
            get(address, &format!("GET /v2/lab/x/blobs/{}", body["layers"][0]["digest"].as_str().unwrap()));
        assert!(layer.contains("binary"));
        assert!(get(address, "PUT /v2/lab/x/manifests/1").starts_with("HTTP/1.1 405"));
    }

    #[test]
    fn paths_that_leave_the_folder_have_no_route() {
        for path in
            ["/v2/../manifests/1", "/v2/a/manifests/..", "/v2/a//manifests/1", "/v2/a/blobs/sha256:zz", "/x"]
        {
            assert_eq!(Route::of(path), None, "{path}");
        }
        assert_eq!(Route::of("/v2/a/b/manifests/1.2"), Some(Route::Manifest("a/b", "1.2")));
    }
}
