// Package compat holds the tests that drive a real server with the client libraries of QStash: the official ones for
// JavaScript and Python as they are published, and that for Go by the requests that it makes. An application must not notice
// which server it talks to, so whatever a library sends is answered as the hosted service answers it.
//
// Every file of tests in js and python gets a server of its own and runs in a process of its own. The tests need Node and
// Python with the packages that js/package-lock.json and python/requirements.txt name: npm ci --prefix test/compat/js, and
// pip install -r test/compat/python/requirements.txt for the python3 that is first in PATH. The description of the API is tried with the
// programs of openapi/requirements.txt. Without them they are skipped,
// or fail when CI=true. They run with:
//
//	go test -tags compat ./test/compat/...
package compat
