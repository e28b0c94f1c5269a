"""A CNI plugin that announces every container it connects over BGP, through exporters that anyone can plug in."""

__version__ = "0.1.0"
