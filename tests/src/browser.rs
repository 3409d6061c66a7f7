//! A browser as far as signing in needs one: cookies, redirects that it follows
//! when told to, and the sign-in form of the identity provider.

use std::sync::Mutex;

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};

/// As many redirects as browsers follow.
const REDIRECTS: usize = 20;

/// One person's browser.
pub struct Browser {
    http: Client,
    cookies: Mutex<Vec<Cookie>>,
}

/// A cookie, with what it was set with.
#[derive(Clone, Debug, PartialEq)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// `Secure`, `HttpOnly`, `Path=/`…, as the server wrote them.
    pub attributes: Vec<String>,
    /// Scheme, host and port. Real browsers share cookies between the ports of a
    /// host; here they would hide which server a cookie belongs to.
    origin: String,
    path: String,
}

impl Cookie {
    fn parse(url: &Url, header: &str) -> Option<Self> {
        let mut parts = header.split(';').map(str::trim);
        let (name, value) = parts.next()?.split_once('=')?;
        let attributes: Vec<String> = parts.map(str::to_owned).collect();
        let path = attribute(&attributes, "path").unwrap_or("/").to_owned();
        let origin = url.origin().ascii_serialization();
        Some(Self { name: name.to_owned(), value: value.to_owned(), attributes, origin, path })
    }

    fn removes(&self) -> bool {
        attribute(&self.attributes, "max-age").is_some_and(|age| age.parse().is_ok_and(|age: i64| age <= 0))
    }

    fn is_for(&self, url: &Url) -> bool {
        let below = |rest: &str| rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/');
        self.origin == url.origin().ascii_serialization()
            && url.path().strip_prefix(&self.path).is_some_and(below)
    }
}

fn attribute<'a>(attributes: &'a [String], name: &str) -> Option<&'a str> {
    let split = attributes.iter().filter_map(|attribute| attribute.split_once('='));
    split.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next_back()
}

/// How signing in ended.
#[derive(Debug)]
pub enum SignIn {
    /// The provider sends the browser back, to this URL.
    Back(Url),
    /// It does not; this is the page it shows.
    Refused(String),
}

impl SignIn {
    /// The URL back.
    pub fn back(self) -> Url {
        match self {
            Self::Back(url) => url,
            Self::Refused(page) => panic!("the identity provider refused: {page}"),
        }
    }

    /// The page of a refusal.
    pub fn refused(self) -> String {
        match self {
            Self::Back(url) => panic!("the identity provider did not refuse but sends to {url}"),
            Self::Refused(page) => page,
        }
    }
}

impl Default for Browser {
    fn default() -> Self {
        let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        Self { http: http.build().expect("a client"), cookies: Mutex::default() }
    }
}

impl Browser {
    /// A request, for [`Browser::send`].
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends one request with this browser's cookies, and keeps those of the
    /// answer. Follows no redirect.
    pub async fn send(&self, request: RequestBuilder) -> Response {
        let mut request = request.build().expect("a request");
        let cookies: Vec<String> = {
            let kept = self.cookies.lock().expect("no panic");
            let ours = kept.iter().filter(|cookie| cookie.is_for(request.url()));
            ours.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect()
        };
        if !cookies.is_empty() {
            let cookies = cookies.join("; ").parse().expect("cookies are plain text");
            request.headers_mut().insert(COOKIE, cookies);
        }
        let answer = self.http.execute(request).await.expect("the server answers");
        let mut kept = self.cookies.lock().expect("no panic");
        for header in answer.headers().get_all(SET_COOKIE) {
            let set = header.to_str().ok().and_then(|header| Cookie::parse(answer.url(), header));
            let Some(set) = set else { continue };
            kept.retain(|c| (&c.name, &c.origin, &c.path) != (&set.name, &set.origin, &set.path));
            if !set.removes() {
                kept.push(set);
            }
        }
        drop(kept);
        answer
    }

    /// One GET, without following a redirect.
    pub async fn get(&self, url: &str) -> Response {
        self.send(self.request(Method::GET, url)).await
    }

    /// GET, following redirects to whatever ends them.
    pub async fn visit(&self, url: &str) -> Response {
        self.follow(self.get(url).await, |_| true).await
    }

    /// Follows redirects as long as they lead to where `into` says.
    async fn follow(&self, mut answer: Response, into: impl Fn(&Url) -> bool) -> Response {
        for _ in 0..REDIRECTS {
            match location(&answer) {
                Some(next) if into(&next) => answer = self.get(next.as_str()).await,
                _ => return answer,
            }
        }
        panic!("more than {REDIRECTS} redirects, the last to {:?}", location(&answer));
    }

    /// Opens the authorization URL, fills in the provider's form, and returns
    /// where the provider sends the browser, unvisited. A browser that is signed
    /// in there already is sent back without a form.
    pub async fn sign_in(&self, authorize_url: &str, user: &str, password: &str) -> SignIn {
        let provider = Url::parse(authorize_url).expect("a URL").origin();
        let at_provider = |url: &Url| url.origin() == provider;
        let mut answer = self.follow(self.get(authorize_url).await, at_provider).await;
        if let Some(back) = location(&answer) {
            return SignIn::Back(back);
        }
        let page = answer.text().await.expect("a page");
        let Some(action) = form_action(&page) else { return SignIn::Refused(page) };
        let form = Url::parse_with_params("http://localhost", [("username", user), ("password", password)]);
        let post = self
            .request(Method::POST, &action)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.expect("a URL").query().expect("a query").to_owned());
        answer = self.follow(self.send(post).await, at_provider).await;
        match location(&answer) {
            Some(back) => SignIn::Back(back),
            None => SignIn::Refused(answer.text().await.expect("a page")),
        }
    }

    /// Cookies of that name.
    pub fn cookies(&self, name: &str) -> Vec<Cookie> {
        self.cookies.lock().expect("no panic").iter().filter(|cookie| cookie.name == name).cloned().collect()
    }

    /// Forgets everything, as a new private window.
    pub fn forget(&self) {
        self.cookies.lock().expect("no panic").clear();
    }
}

/// Where an answer redirects to.
pub fn location(answer: &Response) -> Option<Url> {
    if !answer.status().is_redirection() || answer.status() == StatusCode::NOT_MODIFIED {
        return None;
    }
    let to = answer.headers().get(LOCATION)?.to_str().expect("a URL is plain text");
    Some(answer.url().join(to).expect("a redirect leads to a URL"))
}

/// A parameter of a URL's query.
pub fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Where Keycloak's sign-in form is posted.
fn form_action(page: &str) -> Option<String> {
    let form = &page[page.find(r#"id="kc-form-login""#)?..];
    let action = form.split_once(r#"action=""#)?.1.split('"').next()?;
    Some(action.replace("&amp;", "&"))
}
