"""The programs that compute a network, a file each, behind one protocol."""
