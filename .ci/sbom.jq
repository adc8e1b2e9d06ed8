# CycloneDX 1.5 of a Go program, from `go version -m -json`. It has no serial
# number and the commit's time, so that the same program has the same SBOM.
def part($name; $version; $sum): {
  type: "library", name: $name, version: $version,
  "bom-ref": "pkg:golang/\($name)@\($version)", purl: "pkg:golang/\($name)@\($version)",
} + if $sum then {properties: [{name: "go:sum", value: $sum}]} else {} end;

([.Deps[] | (.Replace // .) | part(.Path; .Version; .Sum)]
  + [part("stdlib"; .GoVersion | ltrimstr("go"); null)] | sort_by(.purl)) as $parts
| {
  bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
  metadata: {
    timestamp: ($epoch | tonumber | todate),
    component: {
      type: "application", name: "keymill", version: $version, "bom-ref": "keymill",
      hashes: [{alg: "SHA-256", content: $sha256}],
      properties: [.Settings[] | {name: "go:build:\(.Key)", value: .Value}]
    }
  },
  components: $parts,
  dependencies: [{ref: "keymill", dependsOn: [$parts[]."bom-ref"]}]
}
