package metadata

import "maps"

// Default are the rules for the telescopes of La Palma and Paranal, and for FITS files as
// GADF (gamma-astro-data-formats) and the FITS standard name their keywords.
func Default() Rules {
	return Rules{
		Names: []Name{
			{
				// ACADA, as the interface between ACADA and DPPS names files; the parts and their order are those of
				// the examples in ctapipe_io_zfits (src/ctapipe_io_zfits/paths.py and its tests, v0.4):
				//	TEL001_SDH0001_20231013T220427_SBID0000000002000000013_OBSID0000000002000000027_TEL_SHOWER_CHUNK000.fits.fz
				//	SUB000_SWAT000_20250204T213405_SBID..._OBSID..._SUBARRAY_CHUNK000.fits.fz
				//	AUX021_CAMERA01_20231011T030105_SBID..._OBSID..._FILE001.fits, TEL001_BROKER01_20231011_FILE001.fits
				Pattern: `(?:TEL(?P<tel_id>\d+)|SUB(?P<subarray_id>\d+)|AUX(?P<aux_id>\d+))_(?P<data_source>[A-Z]+\d*)_` +
					`(?:(?P<start_time>\d{8}T\d{6})|(?P<date>\d{8}))(?:_SBID(?P<sb_id>\d+))?(?:_OBSID(?P<obs_id>\d+))?` +
					`(?:_(?P<data_type>[A-Za-z0-9_]+?))?_(?:CHUNK(?P<chunk>\d+)|FILE(?P<file_id>\d+))\..*`,
				Types: map[string]string{
					"tel_id": "int", "subarray_id": "int", "aux_id": "int", "start_time": "time 20060102T150405", "date": "time 20060102",
					"sb_id": "int", "obs_id": "int", "chunk": "int", "file_id": "int",
				},
				Set: map[string]any{"observatory": "CTAO"},
			},
			{
				// ACADA before that, release 1 (ctapipe_io_zfits, multifile.py):
				//	Tel001_SDH_3001_20231003T204445_sbid2000000008_obid2000000016_9.fits.fz
				Pattern: `Tel(?P<tel_id>\d+)_(?P<data_source>SDH_\d+)_(?P<start_time>\d{8}T\d{6})_sbid(?P<sb_id>\d+)_obid(?P<obs_id>\d+)_(?P<chunk>\d+).*\.fits\.fz`,
				Types: map[string]string{
					"tel_id": "int", "start_time": "time 20060102T150405", "sb_id": "int", "obs_id": "int", "chunk": "int",
				},
				Set: map[string]any{"observatory": "CTAO"},
			},
			{
				// LST-1 on its own: LST-1.1.Run02968.0000.fits.fz (telescope, stream, run, subrun), dl1_LST-1.Run02968.0000.h5, dl3_LST-1.Run02968.fits.gz
				Pattern: `(?:(?P<data_level>(?:dl|DL|r|R)\d[ab]?)_|[A-Za-z_]+_)?(?P<telescope>LST-\d+)(?:\.(?P<stream>\d))?\.Run(?P<run>\d+)(?:\.(?P<subrun>\d+))?\..*`,
				Types:   map[string]string{"stream": "int", "run": "int", "subrun": "int"},
			},
			{
				// MAGIC (magic-cta-pipe and gammapy have such files): night, telescope, run, subrun, D raw, Y calibrated, I star,
				// S superstar, Q melibea or DL3; then the source, with offset and angle of the wobble:
				//	20210314_M1_05095172.001_Y_CrabNebula-W0.40+035.root, 20210314_05095172_S_CrabNebula-W0.40+035.root
				//	20131004_05029747_DL3_CrabNebula-W0.40+035.fits
				Pattern: `(?P<night>\d{8})_(?:(?P<telescope>M[12])_)?(?P<run>\d{8})(?:\.(?P<subrun>\d{3}))?_(?P<data_type>[A-Z][A-Z0-9]*)_` +
					`(?P<object>.+?)(?:-W(?P<wobble_offset>\d+\.\d+)\+(?P<wobble_angle>\d+))?\.(?:root|fits|raw|h5|hdf5)(?:\.(?:gz|fz|bz2|xz|zst))?`,
				Types: map[string]string{
					"night": "time 20060102", "run": "int", "subrun": "int", "wobble_offset": "float", "wobble_angle": "int",
				},
				Set: map[string]any{"observatory": "MAGIC"},
			},
		},
		FITS: maps.Clone(keywords),
		HDF5: maps.Clone(attributes),
		// The longer one is not the shorter one of another file: FILE.meta belongs to nobody.
		Sides: []string{".meta.json", ".json"},
	}
}

// attributes of the roots of HDF5 files: those of ctapipe's reference metadata.
var attributes = map[string]string{
	"CTA PRODUCT ID": "product_id", "CTA PRODUCT CREATION TIME": "product_created", "CTA PRODUCT DATA CATEGORY": "data_category", "CTA PRODUCT DATA LEVELS": "data_levels",
	"CTA PRODUCT DATA TYPE": "data_type", "CTA PRODUCT DATA MODEL VERSION": "data_model_version", "CTA PROCESS TYPE": "process_type", "CTA PROCESS ID": "process_id",
	"CTA ACTIVITY NAME": "activity", "CTA ACTIVITY ID": "activity_id", "CTA ACTIVITY SOFTWARE NAME": "software", "CTA ACTIVITY SOFTWARE VERSION": "software_version",
	"CTA INSTRUMENT SITE": "site", "CTA INSTRUMENT CLASS": "instrument_class", "CTA INSTRUMENT ID": "instrument_id",
}

// keywords of GADF 0.3 (events header), and those of CTAO's DL0.
var keywords = map[string]string{
	"OBS_ID": "obs_id", "SB_ID": "sb_id", "TEL_ID": "tel_id", "OBS_MODE": "obs_mode", "EV_CLASS": "event_class",
	"TELESCOP": "telescope", "INSTRUME": "instrument", "OBSERVER": "observer", "ORIGIN": "origin", "CREATOR": "creator",
	"OBJECT": "object", "RA_OBJ": "ra_obj", "DEC_OBJ": "dec_obj", "RA_PNT": "ra_pnt", "DEC_PNT": "dec_pnt", "ALT_PNT": "alt_pnt", "AZ_PNT": "az_pnt",
	"DATE-OBS": "date_obs", "DATE-BEG": "date_beg", "DATE-AVG": "date_avg", "DATE-END": "date_end",
	"TSTART": "tstart", "TSTOP": "tstop", "MJDREFI": "mjdrefi", "MJDREFF": "mjdreff", "TIMESYS": "timesys",
	"ONTIME": "ontime", "LIVETIME": "livetime", "DEADC": "deadc", "N_TELS": "n_tels", "TELLIST": "tellist",
	"HDUCLASS": "hduclass", "HDUVERS": "hduvers",
}
