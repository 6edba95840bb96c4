// Package chaos lets real clusters live through bad days: faults drawn from a
// seed, clients that write and read all the time, and checks of what they were
// told. See DESIGN.md.
package chaos
