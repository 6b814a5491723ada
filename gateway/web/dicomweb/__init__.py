"""DICOMweb for viewers and other systems: what the gateway holds, searched and retrieved (PS3.18 10.4 and 10.6), and orders for
it (UPS-RS, 11). Each file offers `router`. Images are stored at the ingest processes' own port (ingest/dicomweb.py).

Who is signed in to the console may look with the cookie of that; everybody else sends a token.
"""
