//! JSON files that carry a checksum of themselves and stay plain JSON for every other tool.
//!
//! The first member of the object is `"crc32": "xxxxxxxx"`, the CRC-32 of everything behind that line. A file without it was
//! written by an earlier version, or by hand, and is taken as it is.

const START: &[u8] = b"{\n  \"crc32\": \"";
const END: &[u8] = b"\",\n";
const DIGITS: usize = 8;

/// Adds the checksum to a JSON object as `serde_json::to_vec_pretty` writes it. An empty object stays as it is.
pub(crate) fn seal(json: Vec<u8>) -> Vec<u8> {
    let Some(rest) = json.strip_prefix(b"{\n") else { return json };
    let mut sealed = Vec::with_capacity(json.len() + START.len() + DIGITS + END.len());
    sealed.extend_from_slice(START);
    sealed.extend_from_slice(format!("{:08x}", crc32fast::hash(rest)).as_bytes());
    sealed.extend_from_slice(END);
    sealed.extend_from_slice(rest);
    sealed
}

/// Whether the file carries a checksum, which then is the right one.
///
/// # Errors
/// The checksum is not that of the content; the text says so.
pub(crate) fn verify(bytes: &[u8]) -> Result<bool, String> {
    let Some(sealed) = bytes.strip_prefix(START) else { return Ok(false) };
    let (sum, rest) = sealed.split_at_checked(DIGITS).ok_or("it ends within its checksum")?;
    let rest = rest.strip_prefix(END).ok_or("its checksum is garbled")?;
    let sum = std::str::from_utf8(sum).ok().and_then(|sum| u32::from_str_radix(sum, 16).ok());
    let found = crc32fast::hash(rest);
    match sum.ok_or("its checksum is garbled")? {
        sum if sum == found => Ok(true),
        sum => Err(format!("its checksum is {found:08x} instead of {sum:08x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_object_is_json_and_every_flipped_byte_of_its_content_is_noticed() {
        let value = serde_json::json!({ "format": 1, "name": "x" });
        let sealed = seal(serde_json::to_vec_pretty(&value).unwrap());
        assert_eq!(verify(&sealed), Ok(true));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&sealed).unwrap()["name"], "x");
        for at in START.len()..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(verify(&damaged).is_err(), "byte {at}");
        }
        assert!(verify(&sealed[..sealed.len() - 1]).is_err());
    }

    #[test]
    fn an_object_without_a_checksum_is_taken_as_it_is() {
        assert_eq!(verify(b"{\n  \"format\": 1\n}"), Ok(false));
        assert_eq!(seal(b"{}".to_vec()), b"{}");
    }
}
