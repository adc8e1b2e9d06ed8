package config

import "keymill/imaging"

// FormatPack is the format whose product is the pack itself.
const FormatPack = "pack"

// ImageFormats lists what image.format takes.
func ImageFormats() []string {
	names := []string{FormatPack}
	for _, f := range imaging.Formats() {
		names = append(names, f.Name)
	}
	return names
}
