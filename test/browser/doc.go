// Package browser drives the console with a headless browser, behind the build tag browser. Every page that is opened is
// watched: an error on the browser's console, a request to another host, or something that the content security policy had to
// refuse fails the test. Debian's chromium and npm ci --prefix test/browser are needed.
package browser
