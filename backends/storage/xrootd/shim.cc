//go:build xrdcl && cgo

#include "shim.h"

#include <XrdCl/XrdClDefaultEnv.hh>
#include <XrdCl/XrdClFile.hh>
#include <XrdCl/XrdClFileSystem.hh>
#include <XrdCl/XrdClLog.hh>
#include <XrdCl/XrdClXRootDResponses.hh>
#include <XrdOuc/XrdOucCRC.hh>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

using namespace XrdCl;

namespace {

// Answer carries one answer to Go and goes.
class Answer : public ResponseHandler {
	uintptr_t call;
	tarn_xrd_answer a{};
	std::string text;

	void stat(const StatInfo &i) {
		a.size = i.GetSize();
		a.mtime = int64_t(i.GetModTime());
		a.flags = i.GetFlags();
		strncpy(a.id, i.GetId().c_str(), sizeof a.id - 1);
	}

	// A listing is "flags size mtime name" for each entry, each with a NUL at its end.
	void list(DirectoryList &l) {
		for (auto e = l.Begin(); e != l.End(); ++e) {
			const StatInfo *i = (*e)->GetStatInfo();
			if (i == nullptr) {
				text += "- - - ";
			} else {
				text += std::to_string(i->GetFlags()) + ' ' + std::to_string(i->GetSize()) + ' ' + std::to_string(i->GetModTime()) + ' ';
			}
			text += (*e)->GetName();
			text += '\0';
		}
	}

	void value(AnyObject *o) {
		StatInfo *info = nullptr;
		PageInfo *page = nullptr;
		Buffer *buffer = nullptr;
		DirectoryList *entries = nullptr;
		LocationInfo *places = nullptr;
		o->Get(places);
		o->Get(info);
		o->Get(page);
		o->Get(buffer);
		o->Get(entries);
		if (info != nullptr) {
			stat(*info);
		} else if (page != nullptr) {
			a.size = page->GetLength();
		} else if (buffer != nullptr) {
			text.assign(buffer->GetBuffer(), buffer->GetSize());
		} else if (entries != nullptr) {
			list(*entries);
		} else if (places != nullptr) { // each with a NUL at its end
			for (auto p = places->Begin(); p != places->End(); ++p) {
				text += p->GetAddress();
				text += '\0';
			}
		}
	}

public:
	explicit Answer(uintptr_t call) : call(call) {}

	void HandleResponseWithHosts(XRootDStatus *status, AnyObject *o, HostList *hosts) override {
		if (hosts != nullptr && !hosts->empty() && !status->IsOK()) {
			const URL &last = hosts->back().url;
			snprintf(a.host, sizeof a.host, "%s:%d", last.GetHostName().c_str(), last.GetPort());
		}
		delete hosts;
		HandleResponse(status, o);
	}

	void HandleResponse(XRootDStatus *status, AnyObject *o) override {
		if (!status->IsOK()) {
			a.code = status->code == 0 ? uint16_t(errUnknown) : status->code;
			a.error = status->errNo;
			text = status->GetErrorMessage();
		} else if (o != nullptr) {
			value(o);
		}
		delete status;
		delete o;
		a.text = text.data();
		a.length = text.size();
		tarnXrdAnswer(call, &a);
		delete this;
	}

	// The library calls nobody for what it does not even send, such as the close of a file that is not open.
	void begun(const XRootDStatus &s) {
		if (!s.IsOK() || s.code == suAlreadyDone) {
			HandleResponse(new XRootDStatus(s), nullptr);
		}
	}
};

} // namespace

extern "C" {

const char *tarn_xrd_version(void) { return XrdVERSION; }

uint32_t tarn_xrd_page_sum(uint32_t crc, const void *p, size_t n) { return XrdOucCRC::Calc32C(p, n, crc); }

void tarn_xrd_init(int connect, int again, int request) {
	Env *e = DefaultEnv::GetEnv();
	e->PutInt("ConnectionWindow", connect);
	e->PutInt("ConnectionRetry", again);
	e->PutInt("StreamErrorWindow", 0);
	e->PutInt("RequestTimeout", request);
	e->PutInt("StreamTimeout", request);
	e->PutInt("TimeoutResolution", 1);
	e->PutInt("RunForkHandler", 0);
	e->PutInt("MetalinkProcessing", 0);
	if (getenv("XRD_LOGLEVEL") == nullptr) {
		DefaultEnv::GetLog()->SetLevel(Log::NoMsg); // errors are told by who asked
	}
}

void *tarn_xrd_fs_new(const char *url) { return new FileSystem(URL(url)); }

void tarn_xrd_fs_delete(void *fs) { delete static_cast<FileSystem *>(fs); }

void tarn_xrd_fs(void *fs, int what, const char *path, const char *to, uint16_t seconds, uintptr_t call) {
	FileSystem &f = *static_cast<FileSystem *>(fs);
	Answer *a = new Answer(call);
	Buffer b;
	XRootDStatus s(stError, errInvalidArgs);
	switch (what) {
	case tarn_xrd_stat:
		s = f.Stat(path, a, seconds);
		break;
	case tarn_xrd_rm:
		s = f.Rm(path, a, seconds);
		break;
	case tarn_xrd_rmdir:
		s = f.RmDir(path, a, seconds);
		break;
	case tarn_xrd_mkdir:
		s = f.MkDir(path, MkDirFlags::None, Access::UR | Access::UW | Access::UX | Access::GR | Access::GX | Access::OR | Access::OX, a, seconds);
		break;
	case tarn_xrd_mv:
		s = f.Mv(path, to, a, seconds);
		break;
	case tarn_xrd_list:
		s = f.DirList(path, DirListFlags::Stat, a, seconds);
		break;
	case tarn_xrd_locate:
		s = f.Locate(path, OpenFlags::Refresh, a, seconds);
		break;
	case tarn_xrd_config:
		b.FromString(path);
		s = f.Query(QueryCode::Config, b, a, seconds);
		break;
	case tarn_xrd_checksum:
	case tarn_xrd_space:
		b.FromString(path);
		s = f.Query(what == tarn_xrd_space ? QueryCode::Space : QueryCode::Checksum, b, a, seconds);
		break;
	}
	a->begun(s);
}

void *tarn_xrd_file_new(void) {
	File *f = new File();
	// What is opened again may be another file by then, which only package xrootd looks at.
	f->SetProperty("ReadRecovery", "false");
	f->SetProperty("WriteRecovery", "false");
	return f;
}

void tarn_xrd_file_delete(void *file) { delete static_cast<File *>(file); }

void tarn_xrd_open(void *file, const char *url, int how, uint16_t seconds, uintptr_t call) {
	Answer *a = new Answer(call);
	OpenFlags::Flags flags = how == tarn_xrd_reading ? OpenFlags::Read : OpenFlags::Update;
	Access::Mode mode = Access::None;
	if (how == tarn_xrd_creating) {
		flags = flags | OpenFlags::New;
		mode = Access::UR | Access::UW | Access::GR | Access::OR;
	}
	a->begun(static_cast<File *>(file)->Open(url, flags, mode, a, seconds));
}

void tarn_xrd_file_property(void *file, const char *name, char *value, size_t size) {
	std::string v;
	static_cast<File *>(file)->GetProperty(name, v);
	snprintf(value, size, "%s", v.c_str());
}

void tarn_xrd_file_stat(void *file, int now, uint16_t seconds, uintptr_t call) {
	Answer *a = new Answer(call);
	a->begun(static_cast<File *>(file)->Stat(now != 0, a, seconds));
}

void tarn_xrd_read(void *file, uint64_t offset, uint32_t length, void *buffer, uint16_t seconds, uintptr_t call) {
	Answer *a = new Answer(call);
	a->begun(static_cast<File *>(file)->PgRead(offset, length, buffer, a, seconds));
}

void tarn_xrd_write(void *file, uint64_t offset, uint32_t length, const void *buffer, uint16_t seconds, uintptr_t call) {
	Answer *a = new Answer(call);
	a->begun(static_cast<File *>(file)->Write(offset, length, buffer, a, seconds));
}

void tarn_xrd_control(void *file, const char *word, uint16_t seconds, uintptr_t call) {
	Answer *a = new Answer(call);
	Buffer b;
	b.FromString(word);
	a->begun(static_cast<File *>(file)->Fcntl(b, a, seconds));
}

void tarn_xrd_sync(void *file, uint16_t seconds, uintptr_t call) {
	Answer *a = new Answer(call);
	a->begun(static_cast<File *>(file)->Sync(a, seconds));
}

void tarn_xrd_close(void *file, uint16_t seconds, uintptr_t call) {
	Answer *a = new Answer(call);
	a->begun(static_cast<File *>(file)->Close(a, seconds));
}

} // extern "C"
