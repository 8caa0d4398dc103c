// Package nstest builds small networks of unnamed namespaces for tests. Everything that it makes
// goes away with the test. Without the privilege a test is skipped, or failed where CI=true is set:
// a kernel test that silently never runs protects nothing.
package nstest
