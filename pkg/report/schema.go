package report

import _ "embed"

// Schema is the JSON Schema (draft 2020-12) of a report, schema/pathreport.json.
//
//go:embed schema/pathreport.json
var Schema []byte
