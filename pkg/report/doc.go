// Package report holds the v1 report and writes it in every output format: text and wide for
// people, JSON and YAML by the contract that docs/report.md and schema/pathreport.json document,
// JUnit XML for CI and Markdown for an issue or a chat.
//
// All formats print the same value; none of them judges. Strings in a report come from packets,
// kernels and the API server, so every format escapes what a terminal would obey.
package report
