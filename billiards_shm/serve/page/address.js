// Addresses of the server, wherever a proxy has put it: relative to this page. Browsers do not fetch from addresses
// that contain a user and a password, which this page's address may have.
export function addressOf(path) {
  const url = new URL(path, document.baseURI);
  url.username = url.password = "";
  return url;
}
