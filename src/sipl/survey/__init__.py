"""What lies on a disk and in a certificate store, for people to look at; nothing is judged here."""
