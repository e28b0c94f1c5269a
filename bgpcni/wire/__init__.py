"""BGP's wire format, which every exporter that gives octets to its speaker shares. Pure: values in, values out.

encode   announcements to path attributes and NLRI      RFC 4271, 4760; 1997, 4360, 8092; 4364, 4659, 8277;
decode   UPDATE messages and single NLRI to values      7432, 8365, 9136; errors as RFC 7606 has them
"""
