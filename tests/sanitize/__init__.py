"""`make sanitize`: the compiled code under AddressSanitizer and UBSan."""
