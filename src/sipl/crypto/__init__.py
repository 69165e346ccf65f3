"""Certificates, PKCS#7 signatures and digests: the only room that imports `cryptography`.

der.py reads DER, pem.py finds the certificate in a file, certificate.py and pkcs7.py give the bytes their meaning,
keys.py holds public keys, verify.py decides on a signature, signing.py makes keys, certificates and signatures,
token_key.py has a token sign, appended_signature.py finds signatures in files. What is accepted stands in
docs/formats/signatures.md. `cryptography` is imported inside functions: most verifications (RSA) do without it, and it
would lengthen every start by 8 ms.
"""
