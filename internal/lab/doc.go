// Package lab makes real clusters on this machine and breaks them: PostgreSQL
// servers, the programs under test beside them, a client that writes all the
// time, and, for root, a network of their own whose cables can be pulled. Tests,
// the demo and the benchmark stand on it.
//
// Everything runs as an unprivileged user in a folder below /tmp, on ports that
// no other lab of this machine uses, and is gone after Close. A lab whose
// process was killed is cleared away by the next one. The package knows nothing
// of package testing and never prints.
package lab
