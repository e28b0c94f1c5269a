"""BGP's wire format, which every exporter that gives octets to its speaker shares. Pure: values in, values out.

values   small values, in both directions                RFC 4360, 4364, 4760, 5668
nlri     each route type, in both directions             RFC 4271, 4364, 4659, 7432, 8277, 9136
encode   announcements to path attributes and NLRI       RFC 1997, 4271, 4360, 8092, 8365
decode   UPDATE messages and single NLRI to values       the same; errors are handled as RFC 7606 asks
"""
